# data: datasets, downloaded once and packed into uint8 arrays.
#
#   data/datasets/<dataset>/manifest.json


rule download:
    """Download a dataset and pack it. Needs internet, unless the config names a local source."""
    output:
        "data/datasets/{dataset}/manifest.json",
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "results/benchmarks/data/{dataset}.tsv"
    params:
        source=source_flag,
    shell:
        "exec clipkd download {wildcards.dataset:q} {params.source:q} 2>> $(new_log {log:q})"
