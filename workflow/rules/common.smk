# common: reads the config, strictly, and turns its grid into cells and paths. The package holds the rules of the grid
# (clipkd.spec.cells) and the names on disk (clipkd.spec.layout); nothing here imports torch.
#
# There is no `configfile:` directive: Snakemake's own reader takes the last of two equal keys, and runs Python where
# a file says `__use_yte__: true`. It still reads what --configfile names, ahead of this file: `clipkd check` comes first.
import hashlib
import itertools
import json
import re
import sys
from functools import cache
from dataclasses import replace
from pathlib import Path

from clipkd.runs import epoch_size
from clipkd.spec import chains, controls, flags
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.plugins.teachers import StudentTeacher
from clipkd.report import figures
from clipkd import tables
from clipkd.core.environment import may_have_gpu, put_on_path
from clipkd.core.errors import ClipkdError, InputError
from clipkd.core.fingerprint import fingerprint
from clipkd.embeddings import prepare
from clipkd.spec.config import load
from clipkd.spec.layout import RUNS, Layout
from clipkd.export import measures
from clipkd.workflow import evaluations, extractions, stamps

# Nothing is looked up beside the Snakefile: deployed as a module (docs/install.md), it is no local file.
PACKAGE = Path(tables.__file__).resolve().parents[1]
BASE = Path("config/config.yaml")

put_on_path(
    "clipkd"
)  # what the rules call, also where nobody activated the environment


def read_config():
    """Return the checked config: config/config.yaml, the --configfile files over it, --config last."""
    # Internal to Snakemake: only this says which files were given (the reason: above).
    given = workflow.config_settings
    paths = [Path(path) for path in given.configfiles]
    if not BASE.exists():
        raise InputError(
            f"{BASE} is not in the working directory, {Path.cwd()}: copy the project's config/ there "
            "(--directory, or a folder of your own: docs/install.md)"
        )
    files = [BASE, *(path for path in paths if path.resolve() != BASE.resolve())]
    return load(files, given.config)


IS_MAIN = "--target-jobs" not in sys.argv  # not the Snakemake of a single job

try:
    CONFIG = read_config()
    CELLS, LEFT_OUT = chains.expand(CONFIG)
    LAYOUT = Layout.of(CONFIG)
    for cell in {cell.dataset: cell for cell in CELLS}.values():
        packed = LAYOUT.dataset(cell.dataset_spec)
        datasets.refuse_other_source(cell.dataset_spec, packed, cell.source)
    # Else a teacher would be trained, and run over all images, before a student is refused.
    if IS_MAIN:
        epoch_size.check(CELLS, CONFIG, LAYOUT.data)
        controls.check(CELLS, CONFIG, LAYOUT.data)
except ClipkdError as error:
    raise WorkflowError(str(error)) from None

STACK = CONFIG.training.stack
JOBS = stamps.jobs(CELLS, CONFIG, LAYOUT, STACK)
MEASURES = {name: measures.get(name).protocol for name in CONFIG.evaluation}
EVALUATIONS = evaluations.stamps(CELLS, MEASURES, CONFIG, LAYOUT)
if IS_MAIN:
    for reason in LEFT_OUT:
        print(f"left out: {reason}", file=sys.stderr)
    # Here and not when the jobs start: it is said where nothing is to be done, too.
    for line in prepare.stale_sources(CELLS, LAYOUT):
        print(f"warning: {line}", file=sys.stderr)
    stamps.settle(JOBS.values(), LAYOUT)
    if "--delete-all-output" in sys.argv:
        stamps.expect_deletion(JOBS.values())

# Then extractions are looked at that are complete, too (`extracted`, below): to force them, or to show what made what.
FORCING = {"--force", "-f", "--forceall", "-F", "--forcerun", "-R"}
SHOWING = {"--report", "--dag", "--rulegraph", "--filegraph", "--archive"}
WORDS = {word.partition("=")[0] for word in sys.argv}


def is_given(names, letters):
    """Return whether the command line has one of some flags, also among letters or with its value: -nF, -Rextract."""
    return bool(names & WORDS) or any(
        re.match(f"-[nkpt]*[{letters}]", word) for word in WORDS
    )


# Each job of a cluster is given --force: what the user forces, the main process has forgotten before (`forget_forced`).
IS_FORCED = IS_MAIN and is_given(FORCING, "FfR")
IS_LOOKED_AT = IS_FORCED or bool(SHOWING & WORDS)
RUN = "{recipe}/{dataset}/{student}/{teacher}/{train_type}/seed{seed}"
STORE = "data/embeddings/{dataset}/{teacher}/{fingerprint}"
RUN_STAMP = f"{RUNS}/{RUN}/{stamps.PREFIX}{{fingerprint}}"
EVALUATION_STAMP = f"results/evaluations/{RUN}{evaluations.MARK}{{fingerprint}}"
EXTRACTION_STAMP = (
    f"{extractions.STAMPS}/{{dataset}}/{{teacher}}/{{fingerprint}}{extractions.SUFFIX}"
)
RESOLVED = "results/config.json"
RESOLVED_TEXT = json.dumps(CONFIG.model_dump(exclude_unset=True), sort_keys=True)
# Named by the content: Snakemake forgets parameters with its folder .snakemake, and another grid's file must not pass for
# this one's.
RESOLVED_STAMP = (
    f"results/.config-{hashlib.sha256(RESOLVED_TEXT.encode()).hexdigest()[:16]}"
)
# There while the last report was written to its end.
REPORTED = "results/.reported"
TABLES = tables.table_stems(CONFIG)
FIGURES = figures.figure_stems(CONFIG)
DEVICE = CONFIG.training.device
# A job that computes on the CPU must not queue for the GPU that profiles/default grants to one at a time.
GPUS = 0 if DEVICE == "cpu" else 1


def canonical(cell, folder_of):
    """Return the first cell, in the order of names, that needs the same folder as this one.

    The flags that make a shared artefact then stay the same, whatever else the grid asks for: a new
    student or recipe must not make it again.
    """
    every = dict.fromkeys([*students.names(), cell.student])
    known = dict.fromkeys([*recipes.names(), cell.recipe])
    for recipe, student in itertools.product(known, every):
        candidate = replace(cell, recipe=recipe, student=student)
        if folder_of(candidate) == folder_of(cell):
            return candidate


# What is made once and shared: folder -> the cell whose flags make it (and the kind of the view set).
STORES = {}
PROTOTYPES = {}
HEADS = {}
TEACHERS = {}
# Checkpoint of the hub -> a cell that its own classifier scores: refused where it can't, before the weights come.
SCORED = {}
# Folder -> the side, in pixels.
THUMBNAILS = {}


def share(artefacts, cell, folder_of, *more):
    """Note that a cell needs an artefact."""
    folder = folder_of(cell).as_posix()
    if folder not in artefacts:
        artefacts[folder] = (canonical(cell.fixed, folder_of), *more)


def thumbnails_of(dataset, side):
    return LAYOUT.thumbnails(dataset, side)[0].as_posix()


# Seeds share everything, but which labels are seen, where these are few, and runs that teach their own seed: each kind
# of cell is looked at once. (Every job of a cluster reads this file twice.)
for cell in dict.fromkeys(one.kind for cell in CELLS for one in cell.by_teacher):
    if cell.dataset_spec.has_thumbnails:
        side = cell.student_spec.image_size
        THUMBNAILS[thumbnails_of(cell.dataset_spec, side)] = side
    if cell.method.signal == "nothing":
        continue
    if not cell.teacher_spec.is_imported:
        weights = LAYOUT.teacher(cell.teacher_spec).as_posix()
        TEACHERS[weights] = teachers.checkpoint_of(cell.teacher_of_seed)
        if cell.method.signal == "scores" and flags.has_matched_teacher(cell):
            SCORED.setdefault(weights, cell)
    for kind in LAYOUT.stores(cell):
        share(STORES, cell, lambda c: LAYOUT.stores(c)[kind].folder, kind)
        if kind == "full" and cell.has_labels:
            # A teacher's probe accuracy is in the tables beside its students.
            share(HEADS, cell, lambda c: LAYOUT.head(c)[0])
    if cell.method.signal == "prototypes":
        share(PROTOTYPES, cell, lambda c: LAYOUT.prototypes(c)[0])


def trained_by(spec):
    """Return the stamp of the job that trains a teacher, where this is a student of the grid; None for others."""
    if not (isinstance(spec, StudentTeacher) and spec.settings):
        return None
    return job_of_run()[spec.run]


@cache
def job_of_run():
    """Return run folder -> the stamp of the job that trains it."""
    return {cell.folder: stamp for stamp, job in JOBS.items() for cell in job.cells}


EXTRACTIONS = extractions.extractions(STORES, PROTOTYPES, HEADS, trained_by, LAYOUT)
MAKES = {folder: stamp for stamp, one in EXTRACTIONS.items() for folder in one.folders}
if IS_MAIN:
    extractions.settle(EXTRACTIONS.values())
    for folder in map(Path, THUMBNAILS):
        name = folder.parent.name
        extractions.remove_stale(
            folder, datasets.get(name, CONFIG.source(name)), LAYOUT
        )
    evaluations.settle(EVALUATIONS, MEASURES, LAYOUT, MAKES)


wildcard_constraints:
    recipe="[a-z0-9._-]+",
    dataset="[a-z0-9-]+",
    student="[a-z0-9-]+",
    teacher="[a-z0-9.+-]+",
    train_type="[A-Za-z0-9-]+",
    seed=r"\d+",
    fingerprint="[0-9a-f]{16}",
    shard=r"\d+",
    shards=r"\d+",


def manifest(folder):
    """Return the manifest of an artefact that no extraction makes: the file that stands for it between rules.

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


def extracted(folders, output=None):
    """Return what stands for artefacts that extractions make: the stamps of these.

    Where they are there, or where what is made of them (`output`) is, no job is asked for: then it makes no
    difference what else the grid asks of a teacher, nor how it was made. The inputs stay the same files.
    """
    stamps_of = dict.fromkeys(MAKES[Path(folder).as_posix()] for folder in folders)
    is_made = bool(output) and Path(output).exists()
    return [
        (
            before_update(ancient(stamp))
            if not IS_LOOKED_AT and (is_made or Path(stamp).exists())
            else ancient(stamp)
        )
        for stamp in stamps_of
    ]


def dataset_of(name):
    """Return a dataset's spec."""
    return datasets.get(name, CONFIG.source(name))


def thumbnails_side(wildcards):
    """Return the side of thumbnails, in pixels: their students' input."""
    return THUMBNAILS["data/thumbnails/{dataset}/{fingerprint}".format(**wildcards)]


def teacher_name(wildcards):
    """Return the name that the command line knows a teacher by (a key in a path may stand for a hub id)."""
    return TEACHERS[teacher_folder(wildcards)]


def teacher_folder(wildcards):
    """Return the folder of a teacher's checkpoint."""
    return f"data/teachers/{wildcards.teacher}/{wildcards.fingerprint}"


def extraction_of(wildcards):
    """Return what an extraction makes."""
    return EXTRACTIONS[EXTRACTION_STAMP.format(**wildcards)]


def job_of(wildcards):
    """Return what a training job trains."""
    return JOBS[RUN_STAMP.format(**wildcards)]


def evaluated(wildcards):
    """Return the cell whose student an evaluation is of."""
    return EVALUATIONS[EVALUATION_STAMP.format(**wildcards)]


# The code that tables, figures and the report are made of. (Costly rules carry protocol numbers.)
CODE_OF_REPORT = [
    "tables/*.py",
    "tables/templates/*",
    "core/typed_json.py",
    "runs/record.py",
    "runs/finished.py",
    "runs/measured.py",
    "runs/correct.py",
    "spec/*.py",
    "plugins/*/__init__.py",
    "plugins/*/[!_]*.py",
    "report/**/*.py",
    "report/templates/*",
]


def code_digest(patterns):
    """Return a digest of the package's files of these patterns: an edit runs the rule again."""
    paths = sorted(path for pattern in patterns for path in PACKAGE.glob(pattern))
    content = b"".join(path.read_bytes() for path in paths)
    return hashlib.sha256(content).hexdigest()[:16]


def in_report(path, entry):
    """Return a file marked for Snakemake's report."""
    return report(
        path,
        caption=f"../report/{entry['caption']}.rst",
        category=entry["category"],
        labels=entry["labels"],
    )
