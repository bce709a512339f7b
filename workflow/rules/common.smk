# The only helpers. Reads the config, strictly, and turns its grid into cells and paths. The package holds the rules
# of the grid (clipkd.cells) and the names on disk (clipkd.layout); nothing here imports torch.
#
# There is no `configfile:` directive: Snakemake's own reader takes the last of two equal keys, and runs Python where
# a file says `__use_yte__: true`. It still reads what --configfile names, ahead of this file: `clipkd check` comes first.
import hashlib
import itertools
import json
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

from clipkd import (
    cells,
    class_names,
    datasets,
    figures,
    recipes,
    students,
    tables,
    teachers,
)
from clipkd import config as settings
from clipkd.artifacts import read_manifest
from clipkd.embeddings.prompts import TEMPLATES
from clipkd.embeddings.zero_shot import asked as zero_shot_store
from clipkd.errors import ClipkdError
from clipkd.layout import Layout
from clipkd.teachers import TrainedTeacher
from clipkd.training import PROTOCOL

# Nothing is looked up beside the Snakefile: deployed as a module (docs/install.md), it is no local file.
PACKAGE = Path(settings.__file__).resolve().parent
BASE = Path("config/config.yaml")


def read_config():
    """Return the checked config: config/config.yaml, the --configfile files over it, --config last."""
    given = [Path(path) for path in workflow.config_settings.configfiles]
    files = [BASE, *(path for path in given if path.resolve() != BASE.resolve())]
    return settings.load(files, settings.schema(), workflow.config_settings.config)


try:
    config = read_config()
    CELLS, LEFT_OUT = cells.expand(config)
except ClipkdError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    for reason in LEFT_OUT:
        print(f"left out: {reason}", file=sys.stderr)

LAYOUT = Layout.of(config)
RUNS = {cell.folder: cell for cell in CELLS}
RUN_OF_SEEDS = "{recipe}/{dataset}/{student}/{teacher}/{train_type}"
RUN = f"{RUN_OF_SEEDS}/seed{{seed}}"
STORE = "data/embeddings/{dataset}/{teacher}/{fingerprint}"
RESULTS = (
    "metrics.json",
    "cost.json",
    "history.csv",
    "student.safetensors",
    "manifest.json",
)
RESOLVED = "results/config.json"
TABLES = tables.table_stems(config)
FIGURES = figures.figure_stems(config)
DEVICE = config["training"]["device"]
STACK = config["training"]["stack"]
# A job that computes on the CPU must not queue for the GPU that profiles/default grants to one at a time.
GPUS = 0 if DEVICE == "cpu" else 1


def canonical(cell, folder_of):
    """Return the first cell, in the order of names, that needs the same folder as this one.

    The flags that make a shared artefact then stay the same, whatever else the grid asks for: a new
    student or recipe must not make it again.
    """
    every = dict.fromkeys([*students.names(), cell.student])
    for recipe, student in itertools.product(recipes.names(), every):
        candidate = replace(cell, recipe=recipe, student=student)
        if folder_of(candidate) == folder_of(cell):
            return candidate


def prototypes_folder(cell):
    return LAYOUT.prototypes(cell)[0]


# What is made once and shared: folder -> the cell whose flags make it (and the kind of the view set).
STORES = {}
PROTOTYPES = {}
HEADS = {}
TEACHERS = {}
# Folder -> the side, in pixels.
THUMBNAILS = {}


def share(artefacts, cell, folder_of, *more):
    """Note that a cell needs an artefact."""
    folder = folder_of(cell).as_posix()
    if folder not in artefacts:
        artefacts[folder] = (canonical(cell, folder_of), *more)


def thumbnails_of(dataset, side):
    return LAYOUT.thumbnails(dataset, side)[0].as_posix()


# Seeds share everything: each kind of cell is looked at once. (Every job of a cluster reads this file twice.)
for cell in dict.fromkeys(
    replace(one, seed=0) for cell in CELLS for one in cell.by_teacher
):
    if cell.dataset_spec.has_thumbnails:
        side = cell.student_spec.image_size
        THUMBNAILS[thumbnails_of(cell.dataset_spec, side)] = side
    if cell.method.signal == "nothing":
        continue
    weights = LAYOUT.teacher(cell.teacher_spec).as_posix()
    TEACHERS[weights] = teachers.checkpoint_of(cell.teacher)
    if cell.method.signal == "prototypes":
        share(STORES, cell, lambda c: LAYOUT.sample_embeddings(c).folder, "sample")
        share(PROTOTYPES, cell, prototypes_folder)
        continue
    if cell.teacher_source == "replayed":
        share(STORES, cell, lambda c: LAYOUT.replayed_embeddings(c).folder, "replayed")
    if cell.method.signal == "scores" or cell.teacher_source == "cached":
        share(STORES, cell, lambda c: LAYOUT.full_embeddings(c).folder, "full")
        # A teacher's probe accuracy stands beside its students in the tables.
        share(HEADS, cell, lambda c: LAYOUT.full_embeddings(c).head()[0])


wildcard_constraints:
    recipe="[a-z0-9-]+",
    dataset="[a-z0-9-]+",
    student="[a-z0-9-]+",
    teacher="[a-z0-9+-]+",
    train_type="[A-Za-z-]+",
    seed=r"\d+",
    fingerprint="[0-9a-f]{16}",
    part="[0-9a-f]{16}",
    shard=r"\d+",
    shards=r"\d+",


def manifest(folder):
    """Return an artefact's manifest: the file that stands for it between rules.

    DVC may bring it, with a new time, after what was made from it; its path says what it is, so
    times must not decide.
    """
    return ancient(f"{folder}/manifest.json")


def origin(output, *folders):
    """Return what an artefact is made from; where it is there already, without a wish to make that first.

    DVC may have brought the artefact and not its origin: then nothing has to be made, downloaded or
    fetched for it. The inputs stay the same files, as a changed set of inputs would make it run again.
    """
    manifests = [manifest(folder) for folder in folders]
    return (
        [before_update(path) for path in manifests]
        if Path(output).exists()
        else manifests
    )


def dataset_of(name):
    """Return a dataset's spec."""
    return datasets.get(name, config["sources"].get(name))


def source_flag(named):
    """Return the flag that says where the data of a `dataset` are, as a list; empty for the official place."""
    source = config["sources"].get(named.dataset)
    return ["--dataset-source", source] if source else []


def thumbnails_side(wildcards):
    """Return the side of thumbnails, in pixels: their students' input."""
    return THUMBNAILS["data/thumbnails/{dataset}/{fingerprint}".format(**wildcards)]


def thumbnails_inputs(wildcards):
    """Return what thumbnails are made from: the packed dataset."""
    output = "data/thumbnails/{dataset}/{fingerprint}/manifest.json".format(**wildcards)
    return origin(output, LAYOUT.dataset(dataset_of(wildcards.dataset)))


def teacher_name(wildcards):
    """Return the name that the command line knows a teacher by (a key in a path may stand for a hub id)."""
    return TEACHERS[f"data/teachers/{wildcards.teacher}/{wildcards.fingerprint}"]


def store_flags(cell, wildcards):
    """Return the flags that name a store on the command line."""
    return [
        *("--dataset-name", cell.dataset, "--teacher-model", cell.teacher),
        *("--recipe", cell.recipe, "--student", cell.student),
        *source_flag(wildcards),
        *("--embed-dtype", LAYOUT.dtype),
        *precision_flags(),
    ]


def sample_flags(cell):
    """Return the flags that say which images, or prompts, prototypes are made of."""
    sample, flags = LAYOUT.sample, []
    specs = [one.teacher_spec for one in cell.by_teacher]
    if not all(spec.reads_names for spec in specs):
        flags += ["--per-class", sample.per_class, "--prototype-seed", sample.seed]
    if any(spec.reads_names for spec in specs) and LAYOUT.templates != TEMPLATES:
        flags += [f"--template={template}" for template in LAYOUT.templates]
    if any(spec.reads_names for spec in specs):
        flags += names_flag(cell.dataset)
    return flags


def names_flag(dataset):
    """Return the flag that says what a dataset's classes are called; only text towers' jobs depend on it."""
    given = (config.get("class_names") or {}).get(dataset)
    return ["--class-names", class_names.option(given)] if given else []


def precision_flags():
    """Return the flag of teachers' precision, where it is not float32."""
    precision = LAYOUT.precision
    return [] if precision == "float32" else ["--embed-precision", precision]


def form_flags():
    """Return the flag that says what prototypes are, where it is not the recipe that says so."""
    return ["--prototype-form", LAYOUT.form] if LAYOUT.form else []


def extract_flags(wildcards):
    """Return the flags of an extraction."""
    cell, views = STORES[STORE.format(**wildcards)]
    more = {
        "full": [],
        "sample": sample_flags(cell),
        "replayed": ["--crop-views", LAYOUT.crop_views],
    }
    return [*store_flags(cell, wildcards), "--views", views, *more[views]]


def shown_inputs(wildcards):
    """Return what an extraction reads: the images, and the teacher that looks at them."""
    store = STORE.format(**wildcards)
    teacher = STORES[store][0].teacher_spec
    return origin(
        f"{store}/manifest.json",
        LAYOUT.dataset(dataset_of(wildcards.dataset)),
        LAYOUT.teacher(teacher),
    )


def prototypes_inputs(wildcards):
    """Return what class prototypes are made from: the stored sample."""
    store = STORE.format(**wildcards)
    return origin(f"{store}-prototypes-{wildcards.part}/manifest.json", store)


def probe_inputs(wildcards):
    """Return what a head is made from: the stored embeddings, and the labels."""
    store = STORE.format(**wildcards)
    return origin(
        f"{store}-head-{wildcards.part}/manifest.json",
        store,
        LAYOUT.dataset(dataset_of(wildcards.dataset)),
    )


def shards(wildcards):
    """Return what stands for the shards of every store that is still to be made."""
    count = config["embeddings"]["shards"]
    folders = [Path(folder) for folder in STORES]
    return [
        str(folder.with_name(f".{folder.name}.parts") / f"{number}-of-{count}")
        for folder in folders
        if not (folder / "manifest.json").exists()
        for number in range(1, count + 1)
    ]


def tracked(wildcards):
    """Return the folders that DVC is to own: every artefact, but teachers that the hub keeps."""
    folders = sorted(path.parent for path in Path("data").glob("*/**/manifest.json"))
    return [
        folder
        for folder in folders
        if not any(part.startswith(".") for part in folder.parts)
        and "hub" not in read_manifest(folder)["identity"]
    ]


def prototypes_flags(wildcards):
    """Return the flags that make class prototypes."""
    (cell,) = PROTOTYPES[f"{STORE}-prototypes-{{part}}".format(**wildcards)]
    return store_flags(cell, wildcards) + sample_flags(cell) + form_flags()


def probe_flags(wildcards):
    """Return the flags that make a head."""
    (cell,) = HEADS[f"{STORE}-head-{{part}}".format(**wildcards)]
    return store_flags(cell, wildcards)


def teacher_inputs(wildcards):
    """Return what a teacher's checkpoint is made from: its dataset, where the workflow trains it."""
    spec = teachers.get(teacher_name(wildcards))
    if not isinstance(spec, TrainedTeacher):
        return []
    output = "data/teachers/{teacher}/{fingerprint}/manifest.json".format(**wildcards)
    return origin(output, LAYOUT.dataset(datasets.get(spec.dataset)))


def cell_of(wildcards, seed):
    """Return the cell of a run folder."""
    return RUNS[f"{RUN_OF_SEEDS.format(**wildcards)}/seed{seed}"]


def pixels_inputs(cell):
    """Return what the run's student sees: the packed images, or thumbnails of them beside the labels."""
    inputs = [manifest(LAYOUT.dataset(cell.dataset_spec))]
    if cell.dataset_spec.has_thumbnails:
        inputs.append(
            manifest(thumbnails_of(cell.dataset_spec, cell.student_spec.image_size))
        )
    return inputs


def signal_inputs(cell):
    """Return what the run's method asks of its teachers: nothing, or stored or live signals."""
    return [manifest(folder) for folder in signal_folders(replace(cell, seed=0))]


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
    if source == "replayed":
        folders.append(LAYOUT.replayed_embeddings(cell).folder)
    if asked == "embeddings" and source == "cached":
        folders.append(LAYOUT.full_embeddings(cell).folder)
    if asked == "scores":
        folders.append(LAYOUT.full_embeddings(cell).head()[0])
    if source in ("live", "lazy"):
        folders.append(LAYOUT.teacher(cell.teacher_spec))
    return folders


def vision_folders(cell):
    """Return the store that zero-shot accuracy is measured on: of the text tower's vision tower, if it is asked for."""
    store = zero_shot_store(cell, LAYOUT)
    return [
        folder for folder in STORES if store and Path(folder).name == store.folder.name
    ]


def run_flags(cell):
    """Return the flags that name a run on the command line, but for its seed; settings that change make it run again."""
    training = config["training"]
    return [
        *("--train-type", cell.train_type, "--dataset-name", cell.dataset),
        *("--teacher-model", cell.teacher, "--student", cell.student),
        *("--recipe", cell.recipe),
        *("--teacher-source", cell.teacher_source, "--epochs", cell.epochs),
        *("--batch-size", training["batch_size"]),
        *("--learning-rate", training["learning_rate"]),
        *("--weight-decay", training["weight_decay"]),
        *("--precision", training["precision"]),
        *source_flag(cell),
        *("--embed-dtype", LAYOUT.dtype),
        *precision_flags(),
        *(
            sample_flags(cell) + form_flags()
            if cell.method.signal == "prototypes"
            else []
        ),
        *(
            ["--crop-views", LAYOUT.crop_views]
            if cell.teacher_source == "replayed"
            else []
        ),
    ]


def seeds_together():
    """Return the students that one job trains: seeds -> the folders above theirs (`training.stack`)."""
    lots = {}
    for cell in CELLS:
        lots.setdefault(replace(cell, seed=0), []).append(cell)
    together = {}
    for cells_alike in lots.values():
        folder = cells_alike[0].folder.rpartition("/")[0]
        seeds = [cell.seed for cell in cells_alike]
        for start in range(0, len(seeds), STACK):
            together.setdefault(tuple(seeds[start : start + STACK]), []).append(folder)
    return together


def results_of_seeds(seeds):
    """Return the files that the runs of some seeds leave."""
    folders = [f"results/runs/{RUN_OF_SEEDS}/seed{seed}" for seed in seeds]
    return [f"{folder}/{name}" for folder in folders for name in RESULTS]


def recipe_within(folders):
    """Return the pattern of a recipe that only matches at the head of one of these folders."""
    return f"(?=({'|'.join(map(re.escape, folders))})/)[a-z0-9-]+"


def code_digest(*parts):
    """Return a digest of cheap code: an edit runs the rule again. (Costly rules carry protocol numbers.)"""
    modules = sorted(path for part in parts for path in PACKAGE.glob(part))
    return hashlib.sha256(
        b"".join(module.read_bytes() for module in modules)
    ).hexdigest()[:16]


def all_runs(wildcards):
    """Return what every run of the grid leaves for tables and figures."""
    names = ("metrics.json", "cost.json", "history.csv", "manifest.json")
    return [f"results/runs/{folder}/{name}" for folder in RUNS for name in names]


def all_manifests(wildcards):
    """Return the manifests that say what extraction and probes cost and reached."""
    return [manifest(folder) for folder in [*STORES, *PROTOTYPES, *HEADS]]


def in_report(path, stage, stem, entry):
    """Return a file marked for the report, under its category, with the caption of its kind."""
    modules = [path.stem.replace("_", "-") for path in (PACKAGE / stage).glob("*.py")]
    kinds = sorted(modules, key=len, reverse=True)
    family = f"{stage}-{next(kind for kind in kinds if stem.startswith(kind))}"
    return report(
        path,
        caption=f"../report/{family}.rst",
        category=entry["category"],
        labels=entry["labels"],
    )
