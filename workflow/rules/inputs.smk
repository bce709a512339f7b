# inputs: what rules read.
from clipkd.core.artifacts import read_manifest
from clipkd.embeddings.zero_shot import asked as zero_shot_store
from clipkd.plugins.teachers import TrainedCNN, TrainedTeacher


def hub_listing(dataset):
    """Return the list of downloaded files that a dataset of the Hugging Face hub is packed from; None: no such dataset."""
    return dataset_of(dataset).listing(LAYOUT.downloads)


def own_datasets(wildcards):
    """Return the packed datasets whose images lie on this machine: one that was deleted is packed again.

    It was deleted to take in changes of the images, as the message about these says; runs that are there know the
    images that they saw, and are trained again where these are others.
    """
    found = {cell.dataset: cell for cell in CELLS}.values()
    local = [(cell, cell.dataset_spec.local_files(cell.source)) for cell in found]
    return [
        manifest(LAYOUT.dataset(cell.dataset_spec))
        for cell, files in local
        if files and any((files.base / name).exists() for name in files.names)
    ]


def thumbnails_inputs(wildcards):
    """Return what thumbnails are made from: the packed dataset."""
    output = "data/thumbnails/{dataset}/{fingerprint}/manifest.json".format(**wildcards)
    return origin(output, LAYOUT.dataset(dataset_of(wildcards.dataset)))


def extraction_inputs(wildcards):
    """Return what an extraction reads: the images or their labels, and the teacher; without a wish for what no missing artefact needs."""
    extraction = extraction_of(wildcards)
    dataset = manifest(LAYOUT.dataset(dataset_of(wildcards.dataset)))
    shown = dict.fromkeys(
        itertools.chain(
            *(models(cell.teacher_spec) for cell, _ in extraction.stores.values())
        )
    )
    to_show = IS_FORCED or any(
        folder in extraction.stores for folder in extraction.missing
    )
    to_label = any(
        folder in extraction.heads
        or LAYOUT.labelled_sample(extraction.prototypes[folder][0])
        for folder in extraction.missing
        if folder not in extraction.stores
    )
    return [
        *([dataset] if to_show or to_label or Path(dataset).exists() else []),
        *(model for model in shown if to_show or Path(model).exists()),
    ]


def models(spec):
    """Return the checkpoint of a teacher, where it is a model; the run that it is the student of."""
    if spec.is_imported:
        return []
    # An extraction copies the student itself.
    return [ancient(trained_by(spec) or f"{LAYOUT.teacher(spec)}/manifest.json")]


def shard_inputs(wildcards):
    """Return what a shard reads: the images, and the teacher that looks at them."""
    store = STORE.format(**wildcards)
    return [
        manifest(LAYOUT.dataset(dataset_of(wildcards.dataset))),
        *models(STORES[store][0].teacher_spec),
    ]


def shards(wildcards):
    """Return what stands for the shards of every store that is still to be made."""
    count = CONFIG.embeddings.shards
    folders = [Path(folder) for folder in STORES]
    return [
        str(folder.with_name(f".{folder.name}.parts") / f"{number}-of-{count}")
        for folder in folders
        if folder.as_posix() in EXTRACTIONS[MAKES[folder.as_posix()]].missing
        for number in range(1, count + 1)
    ]


def tracked(wildcards):
    """Return the folders that DVC is to own: every artefact, but teachers that the hub keeps."""
    folders = sorted(path.parent for path in Path("data").glob("*/**/manifest.json"))
    return [
        folder
        for folder in folders
        if not any(part.startswith(".") for part in folder.parts)
        and not is_of_hub(folder)
    ]


def is_of_hub(folder):
    """Return whether an artefact says that the hub keeps it; of a damaged one `clipkd verify` says more."""
    try:
        return "hub" in read_manifest(folder)["identity"]
    except ClipkdError:
        return False


def teacher_inputs(wildcards):
    """Return what a teacher's checkpoint is made from: its dataset or its run, where the workflow trains it.

    The classes of a dataset that a checkpoint's own classifier scores are known before its weights are downloaded.
    """
    spec = teachers.get(teacher_name(wildcards))
    if isinstance(spec, StudentTeacher) and spec.settings:
        return run_of(spec, wildcards)
    scored = SCORED.get(teacher_folder(wildcards))
    if not scored and not isinstance(spec, TrainedTeacher | TrainedCNN):
        return []
    dataset = scored.dataset if scored else spec.dataset
    output = f"{teacher_folder(wildcards)}/manifest.json"
    return origin(output, LAYOUT.dataset(dataset_of(dataset)))


def run_of(spec, wildcards):
    """Return the stamp of the run whose student is a teacher; where the teacher is there already, without a wish."""
    stamp = ancient(trained_by(spec))
    is_there = extractions.is_there(teacher_folder(wildcards))
    return before_update(stamp) if is_there else stamp


def pixels_inputs(cell):
    """Return what the run's student sees: the packed images, or thumbnails of them beside the labels."""
    inputs = [manifest(LAYOUT.dataset(cell.dataset_spec))]
    if cell.dataset_spec.has_thumbnails:
        inputs.append(
            manifest(thumbnails_of(cell.dataset_spec, cell.student_spec.image_size))
        )
    return inputs


def signal_inputs(job):
    """Return what the method of a job's runs asks of its teachers: nothing, or stored or live signals."""
    kinds = dict.fromkeys(cell.kind for cell in job.cells)
    folders = dict.fromkeys(one for kind in kinds for one in signal_folders(kind))
    made = [folder for folder in folders if folder.as_posix() in MAKES]
    teachers_of = [manifest(folder) for folder in folders if folder not in made]
    return [*extracted(made, job.stamp), *teachers_of]


@cache
def signal_folders(cell):
    """Return the artefacts that cells of a kind read of their teachers."""
    return [folder for one in cell.by_teacher for folder in folders_of_one(one)]


def folders_of_one(cell):
    """Return the artefacts that a cell reads of its one teacher."""
    asked, source = cell.method.signal, cell.teacher_source
    folders = []
    if asked == "prototypes":
        folders.append(LAYOUT.prototypes(cell)[0])
        folders += vision_folders(cell)
    if source == "replayed" and cell.method.is_per_image:
        folders.append(LAYOUT.replayed_embeddings(cell).folder)
    if source == "cached" and cell.method.is_per_image:
        folders.append(LAYOUT.full_embeddings(cell).folder)
    if asked == "scores":
        folders.append(LAYOUT.head(cell)[0])
    if source in ("live", "lazy"):
        folders.append(LAYOUT.teacher(cell.teacher_spec))
    return folders


def vision_folders(cell):
    """Return the store that zero-shot accuracy is measured on: of the text tower's vision tower, if it is asked for."""
    store = zero_shot_store(cell, LAYOUT)
    return [
        folder
        for folder in map(Path, STORES)
        if store and folder.name == store.folder.name
    ]


def all_runs(wildcards):
    """Return the stamps of all trainings of the grid."""
    return list(JOBS)


def all_evaluations(wildcards):
    """Return the stamps of all evaluations that the config asks for."""
    return list(EVALUATIONS)


def evaluation_inputs(wildcards):
    """Return what an evaluation reads: the run, the packed images and, for the agreement, what is stored of the teacher."""
    cell = evaluated(wildcards)
    stored = []
    if "agreement" in CONFIG.evaluation and cell.method.signal != "nothing":
        for one in cell.by_teacher:
            if not one.teacher_spec.is_per_class:
                stored += [LAYOUT.full_embeddings(one).folder, LAYOUT.head(one)[0]]
    known = [folder for folder in stored if folder.as_posix() in MAKES]
    return [
        job_of_run()[cell.folder],
        manifest(LAYOUT.dataset(cell.dataset_spec)),
        *extracted(known, EVALUATION_STAMP.format(**wildcards)),
    ]


def all_extractions(wildcards):
    """Return what stands for every artefact of a teacher: their manifests say what these cost and reached."""
    return extracted(MAKES)


def shown_datasets(wildcards):
    """Return the packed datasets: figures show their classes."""
    cells = {cell.dataset: cell for job in JOBS.values() for cell in job.cells}
    return [manifest(LAYOUT.dataset(cell.dataset_spec)) for cell in cells.values()]


def class_names_files(wildcards=None):
    """Return the files that say what classes are called: figures show names."""
    given = CONFIG.class_names.values()
    return [one for one in given if isinstance(one, str)]


def names_digest():
    """Return a digest of these files; "" where there is none."""
    paths = [Path(one) for one in class_names_files()]
    content = b"".join(path.read_bytes() for path in paths if path.is_file())
    return hashlib.sha256(content).hexdigest()[:16] if paths else ""
