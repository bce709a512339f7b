# flags: what rules put on clipkd's command lines; clipkd.spec.flags spells them.


def source_flag(wildcards):
    return flags.source_flags(CONFIG, wildcards.dataset)


def fetch_flags(wildcards):
    """Return what brings a teacher: its name, and which images it is trained on or which classes it is to score."""
    name = teacher_name(wildcards)
    spec = teachers.get(name)
    if scored := SCORED.get(teacher_folder(wildcards)):
        return flags.scored_flags(CONFIG, scored)
    source = (
        flags.source_flags(CONFIG, spec.dataset) if isinstance(spec, TrainedCNN) else []
    )
    return [name, *source] if source else name


def extract_flags(wildcards):
    cell, views = STORES[STORE.format(**wildcards)]
    return flags.extract_flags(CONFIG, cell, views)


def prototypes_flags(wildcards):
    (cell,) = PROTOTYPES[f"{STORE}-prototypes-{{part}}".format(**wildcards)]
    return flags.prototypes_flags(CONFIG, cell)


def probe_flags(wildcards):
    (cell,) = HEADS[f"{STORE}-head-{{part}}".format(**wildcards)]
    return flags.probe_flags(CONFIG, cell)


def run_flags(cells):
    return flags.run_flags(CONFIG, cells)
