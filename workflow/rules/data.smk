# data: datasets, downloaded once and packed into uint8 arrays.
#
#   data/datasets/<dataset>/manifest.json
#   data/thumbnails/<dataset>/<fingerprint>/manifest.json     of large images: packed again at a student's input size


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
    params:
        source=source_flag,
        side=thumbnails_side,
    shell:
        "exec clipkd thumbnails {wildcards.dataset:q} --side {params.side} {params.source:q} "
        "> /dev/null 2>> $(new_log {log:q})"
