# embeddings: what a teacher says of a dataset, computed once.
#
#   data/teachers/<teacher>/<fingerprint>/manifest.json                       its checkpoint, fetched or trained
#   data/embeddings/<dataset>/<teacher>/<fingerprint>/manifest.json           one view set
#   data/embeddings/<dataset>/<teacher>/<fingerprint>-prototypes-<part>/...   class prototypes
#   data/embeddings/<dataset>/<teacher>/<fingerprint>-head-<part>/...         linear probe, class scores
#
# A checkpoint from the internet (or from a run or folder here, which takes a second) and one that is trained are two rules:
# the first runs where the internet is.
TRAINED = "|".join(
    re.escape(Path(folder).parent.name)
    for folder, name in TEACHERS.items()
    if isinstance(teachers.get(name), TrainedTeacher | TrainedCNN)
)


rule fetch:
    """Fetch a teacher's checkpoint at its pinned commit (needs internet), or copy it from a run or folder."""
    input:
        teacher_inputs,
    output:
        "data/teachers/{teacher}/{fingerprint}/manifest.json",
    log:
        "logs/embeddings/{teacher}/fetch-{fingerprint}.log",
    benchmark:
        "results/benchmarks/embeddings/{teacher}/fetch-{fingerprint}.tsv"
    wildcard_constraints:
        teacher=f"(?!(?:{TRAINED})/)[a-z0-9.+-]+" if TRAINED else "[a-z0-9.+-]+",
    # The teachers are what everything else waits for.
    priority: 10
    threads: 1
    resources:
        device="cpu",
    params:
        teacher=fetch_flags,
    shell:
        "exec clipkd fetch {params.teacher:q} --device {resources.device:q} --threads {threads} 2>> $(new_log {log:q})"


rule train_teacher:
    """Train a teacher that the workflow trains itself."""
    input:
        teacher_inputs,
    output:
        "data/teachers/{teacher}/{fingerprint}/manifest.json",
    log:
        "logs/embeddings/{teacher}/train-{fingerprint}.log",
    benchmark:
        "results/benchmarks/embeddings/{teacher}/train-{fingerprint}.tsv"
    wildcard_constraints:
        teacher=TRAINED or "(?!)",
    priority: 10
    threads: 1
    resources:
        mem_mb=memory("train_teacher", 8000),
        gpu=GPUS,
        device=DEVICE,
        runtime=train_teacher_minutes,
    params:
        teacher=fetch_flags,
    shell:
        "exec clipkd fetch {params.teacher:q} --device {resources.device:q} --threads {threads} 2>> $(new_log {log:q})"


rule extract:
    """Run a teacher over a view set of a dataset: the only rule that makes a store."""
    input:
        shown_inputs,
    output:
        f"{STORE}/manifest.json",
    log:
        "logs/embeddings/{dataset}/{teacher}/extract-{fingerprint}.log",
    benchmark:
        "results/benchmarks/embeddings/{dataset}/{teacher}/extract-{fingerprint}.tsv"
    priority: 10
    threads: 1
    resources:
        mem_mb=memory("extract", 12000),
        gpu=GPUS,
        # Not params: they change speed, not results, and must not make embeddings again.
        device=DEVICE,
        batch=CONFIG.embeddings.batch_size,
        runtime=extract_minutes,
    params:
        store=extract_flags,
    shell:
        "exec clipkd extract {params.store:q} --embed-batch-size {resources.batch} "
        "--device {resources.device:q} --threads {threads} > /dev/null 2>> $(new_log {log:q})"


rule prototypes:
    """Average a stored sample into one prototype per class."""
    input:
        prototypes_inputs,
    output:
        f"{STORE}-prototypes-{{part}}/manifest.json",
    log:
        "logs/embeddings/{dataset}/{teacher}/prototypes-{fingerprint}-{part}.log",
    benchmark:
        "results/benchmarks/embeddings/{dataset}/{teacher}/prototypes-{fingerprint}-{part}.tsv"
    resources:
        mem_mb=memory("prototypes", 4000),
    params:
        store=prototypes_flags,
    shell:
        "exec clipkd prototypes {params.store:q} > /dev/null 2>> $(new_log {log:q})"


rule probe:
    """Fit a linear probe on stored embeddings: it makes the teacher's class scores."""
    input:
        probe_inputs,
    output:
        f"{STORE}-head-{{part}}/manifest.json",
    log:
        "logs/embeddings/{dataset}/{teacher}/probe-{fingerprint}-{part}.log",
    benchmark:
        "results/benchmarks/embeddings/{dataset}/{teacher}/probe-{fingerprint}-{part}.tsv"
    threads: 1
    resources:
        mem_mb=memory("probe", 8000),
        gpu=GPUS,
        device=DEVICE,
    params:
        store=probe_flags,
    shell:
        "exec clipkd probe {params.store:q} --device {resources.device:q} --threads {threads} > /dev/null 2>> $(new_log {log:q})"


rule extract_shards:
    """Make the parts of all stores that are missing, in embeddings.shards jobs each; `extract` then joins them."""
    input:
        shards,


rule extract_shard:
    """Make every n-th part of a store."""
    input:
        shown_inputs,
    output:
        touch(
            "data/embeddings/{dataset}/{teacher}/.{fingerprint}.parts/{shard}-of-{shards}"
        ),
    log:
        "logs/embeddings/{dataset}/{teacher}/extract-{fingerprint}-{shard}-of-{shards}.log",
    benchmark:
        "results/benchmarks/embeddings/{dataset}/{teacher}/extract-{fingerprint}-{shard}-of-{shards}.tsv"
    threads: 1
    resources:
        mem_mb=memory("extract_shard", 12000),
        gpu=GPUS,
        device=DEVICE,
        batch=CONFIG.embeddings.batch_size,
        runtime=extract_minutes,
    params:
        store=extract_flags,
    shell:
        "exec clipkd extract {params.store:q} --shard {wildcards.shard:q}/{wildcards.shards:q} "
        "--embed-batch-size {resources.batch} --device {resources.device:q} --threads {threads} 2>> $(new_log {log:q})"
