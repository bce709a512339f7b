# data: datasets, downloaded once and packed into uint8 arrays.
#
#   data/datasets/<dataset>/manifest.json
#   data/thumbnails/<dataset>/<fingerprint>/manifest.json     of large images: packed again at a student's input size
#
# What needs the internet runs where the internet is; the rest is a job: images of the user's, and of files of the hub
# that were downloaded before, are packed by a rule of their own.
#
# Packed datasets are marked `update`: Snakemake does not delete their manifests before a job that may fail, and what was
# packed stays usable. Thumbnails are not: the command keeps those that are there, and those of other images must go.
PACKED = "|".join(
    name
    for name in CONFIG.sources
    if datasets.is_local(CONFIG.source(name)) or hub_listing(name)
)


rule download:
    """Download a dataset and pack it. Needs internet."""
    output:
        update("data/datasets/{dataset}/manifest.json"),
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "results/benchmarks/data/{dataset}.tsv"
    wildcard_constraints:
        dataset=f"(?!(?:{PACKED})/)[a-z0-9-]+" if PACKED else "[a-z0-9-]+",
    params:
        source=source_flag,
        made_of=made_of,
    shell:
        "exec clipkd download {wildcards.dataset:q} {params.source:q} 2>> $(new_log {log:q})"


rule download_files:
    """Download the files of a dataset of the Hugging Face hub into its cache. Needs internet."""
    output:
        "data/datasets/.downloads/{dataset}.json",
    log:
        "logs/data/{dataset}-files.log",
    benchmark:
        "results/benchmarks/data/{dataset}-files.tsv"
    params:
        source=source_flag,
    shell:
        "exec clipkd download {wildcards.dataset:q} --files-only {params.source:q} 2>> $(new_log {log:q})"


rule pack:
    """Pack a dataset from a folder or file of the user's, or from downloaded files: hours of work with many images."""
    input:
        lambda wildcards: hub_listing(wildcards.dataset) or [],
    output:
        update("data/datasets/{dataset}/manifest.json"),
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "results/benchmarks/data/{dataset}.tsv"
    wildcard_constraints:
        dataset=PACKED or "(?!)",
    resources:
        mem_mb=memory("pack", 8000),
    params:
        source=source_flag,
        made_of=made_of,
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
        source=lambda wildcards: flags.source_flags(CONFIG, wildcards.dataset),
        side=thumbnails_side,
    shell:
        "exec clipkd thumbnails {wildcards.dataset:q} --side {params.side:q} {params.source:q} "
        "> /dev/null 2>> $(new_log {log:q})"
