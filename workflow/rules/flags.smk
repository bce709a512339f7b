# flags: what rules put on clipkd's command lines; clipkd.spec.flags spells them.


# Snakemake makes nothing again for params that depend on `threads`: a dataset and a teacher are what their folders are
# named by, whatever other grids ask of them and wherever their images lie.


def source_flag(wildcards, threads):
    return flags.source_flags(CONFIG, wildcards.dataset)


def made_of(wildcards):
    """Return what a packed dataset is, which options of its source change, and not where it lies."""
    return fingerprint(dataset_of(wildcards.dataset).identity())


def fetch_flags(wildcards, threads):
    """Return what brings a teacher: its name, and which images it is trained on or which classes it is to score."""
    name = teacher_name(wildcards)
    spec = teachers.get(name)
    if scored := SCORED.get(teacher_folder(wildcards)):
        return flags.scored_flags(CONFIG, scored)
    source = (
        flags.source_flags(CONFIG, spec.dataset) if isinstance(spec, TrainedCNN) else []
    )
    return [name, *source] if source else name


def extraction_commands(wildcards, threads, resources):
    compute = ["--device", resources.device, "--threads", threads]
    return extraction_of(wildcards).commands(
        CONFIG, resources.batch, compute, everything=IS_FORCED
    )


def shard_flags(wildcards):
    cell, views = STORES[STORE.format(**wildcards)]
    return flags.extract_flags(CONFIG, cell, views)
