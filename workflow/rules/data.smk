# data: datasets, downloaded once and packed into uint8 arrays.
#
#   data/datasets/<dataset>/manifest.json
#   data/thumbnails/<dataset>/<fingerprint>/manifest.json     of large images: packed again at a student's input size
#
# Data from the internet and data from a folder or file of the user's are two rules: the first run where the internet is.
HERE = "|".join(
    name for name in CONFIG.sources if datasets.is_local(CONFIG.source(name))
)


rule download:
    """Download a dataset and pack it. Needs internet."""
    output:
        "data/datasets/{dataset}/manifest.json",
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "results/benchmarks/data/{dataset}.tsv"
    wildcard_constraints:
        dataset=f"(?!(?:{HERE})/)[a-z0-9-]+" if HERE else "[a-z0-9-]+",
    params:
        source=source_flag,
    shell:
        "exec clipkd download {wildcards.dataset:q} {params.source:q} 2>> $(new_log {log:q})"


rule pack:
    """Pack a dataset from the folder or file that the config names: no internet, and with many images hours of work."""
    output:
        "data/datasets/{dataset}/manifest.json",
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "results/benchmarks/data/{dataset}.tsv"
    wildcard_constraints:
        dataset=HERE or "(?!)",
    resources:
        mem_mb=memory("pack", 8000),
    params:
        source=source_flag,
    shell:
        "exec clipkd download {wildcards.dataset:q} {params.source:q} 2>> $(new_log {log:q})"


rule thumbnails:
    """Pack a dataset of large images at a student's input size."""
    input:
        thumbnails_inputs,
    output:
        "data/thumbnails/{dataset}/{fingerprint}/manifest.json",
    log:
        "logs/data/{dataset}-{fingerprint}.log",
    benchmark:
        "results/benchmarks/data/{dataset}-{fingerprint}.tsv"
    resources:
        mem_mb=memory("thumbnails", 8000),
    params:
        source=source_flag,
        side=thumbnails_side,
    shell:
        "exec clipkd thumbnails {wildcards.dataset:q} --side {params.side:q} {params.source:q} "
        "> /dev/null 2>> $(new_log {log:q})"
