# embeddings: what a teacher says of a dataset, computed once.
#
#   data/teachers/<teacher>/<fingerprint>/manifest.json             its checkpoint, fetched or trained
#   data/embeddings/<dataset>/<teacher>/<fingerprint>/              one view set
#   data/embeddings/<dataset>/<teacher>/<fingerprint>-prototypes-*  class prototypes
#   data/embeddings/<dataset>/<teacher>/<fingerprint>-head-*        linear probe, class scores
#   results/extractions/<dataset>/<teacher>/<fingerprint>.made      all of these that the grid asks for are there
#
# A checkpoint from the internet (or from a run or folder here, which takes a second) and one that is trained are two rules:
# the first runs where the internet is. Both are marked `update`: Snakemake does not delete what is there before a job that
# may fail, or that a change of the grid asks for.
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
        update("data/teachers/{teacher}/{fingerprint}/manifest.json"),
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
        update("data/teachers/{teacher}/{fingerprint}/manifest.json"),
    log:
        "logs/embeddings/{teacher}/train-{fingerprint}.log",
    benchmark:
        "results/benchmarks/embeddings/{teacher}/train-{fingerprint}.tsv"
    wildcard_constraints:
        teacher=TRAINED or "(?!)",
    priority: 10
    threads: lambda wildcards: teacher_threads(teachers_to_train())
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
    """Run a teacher over a dataset: every view set that is missing, and the prototypes and heads made from them."""
    input:
        extraction_inputs,
    output:
        touch(EXTRACTION_STAMP),
    log:
        "logs/embeddings/{dataset}/{teacher}/extract-{fingerprint}.log",
    benchmark:
        "results/benchmarks/embeddings/{dataset}/{teacher}/extract-{fingerprint}.tsv"
    priority: 10
    threads: lambda wildcards: teacher_threads(extractions_to_make())
    resources:
        mem_mb=memory("extract", 12000),
        gpu=GPUS,
        device=DEVICE,
        batch=CONFIG.embeddings.batch_size,
        runtime=extract_minutes,
    params:
        commands=extraction_commands,
    shell:
        "exec clipkd {params.commands:q} > /dev/null 2>> $(new_log {log:q})"


rule extract_shards:
    """Make the parts of all stores that are missing, in embeddings.shards jobs each; `extract` then joins them."""
    input:
        shards,


rule extract_shard:
    """Make every n-th part of a store."""
    input:
        shard_inputs,
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
        runtime=shard_minutes,
    params:
        store=shard_flags,
    shell:
        "exec clipkd extract {params.store:q} --shard {wildcards.shard:q}/{wildcards.shards:q} "
        "--embed-batch-size {resources.batch} --device {resources.device:q} --threads {threads} 2>> $(new_log {log:q})"
