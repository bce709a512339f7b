# Reads the config, strictly, and turns its grid into cells and paths. The package holds the rules
# of the grid (clipkd.cells) and the names on disk (clipkd.layout); nothing here imports torch.
import json
import sys
from pathlib import Path

import yaml

from clipkd import cells, datasets, methods, recipes, teachers
from clipkd import config as settings
from clipkd.embeddings.views import Sample
from clipkd.errors import InputError
from clipkd.layout import Layout
from clipkd.teachers import TrainedTeacher

ROOT = Path(workflow.current_basedir).parent.parent
BASE = ROOT / "config/config.yaml"


def read_config():
    """Return the checked config: config/config.yaml, the --configfile files over it, --config last."""
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    given = [Path(path) for path in workflow.config_settings.configfiles]
    files = [BASE, *(path for path in given if path.resolve() != BASE.resolve())]
    return settings.load(files, schema, workflow.config_settings.config)


try:
    config = read_config()
    CELLS, LEFT_OUT = cells.expand(config)
except InputError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    for reason in LEFT_OUT:
        print(f"left out: {reason}", file=sys.stderr)

LAYOUT = Layout(
    Path("data"),
    config["embeddings"]["dtype"],
    Sample(**config["prototypes"]),
)
RUNS = {cell.folder: cell for cell in CELLS}
RUN = "{recipe}/{dataset}/{student}/{teacher}/{train_type}/seed{seed}"
RESOLVED = "results/config.json"
DEVICE = config["training"]["device"]
# A job that computes on the CPU must not queue for the GPU that profiles/default grants to one at a time.
GPUS = 0 if DEVICE == "cpu" else 1

# Everything extracted once: folder -> one cell that asks for it and the kind of its view set.
STORES = {}
PROTOTYPES = {}
HEADS = {}
TEACHERS = {}
for cell in CELLS:
    if cell.method.signal == "nothing":
        continue
    TEACHERS[LAYOUT.teacher(cell.teacher_spec).as_posix()] = cell.teacher
    if cell.method.signal == "prototypes":
        store = LAYOUT.sample_embeddings(cell)
        STORES[store.folder.as_posix()] = (cell, "sample")
        PROTOTYPES[store.prototypes(cell.recipe_spec.prototype_form)[0].as_posix()] = (
            cell
        )
    elif cell.method.signal == "scores" or cell.teacher_source == "cached":
        store = LAYOUT.full_embeddings(cell)
        STORES[store.folder.as_posix()] = (cell, "full")
        # A teacher's probe accuracy stands beside its students in the tables.
        HEADS[store.head()[0].as_posix()] = cell


wildcard_constraints:
    recipe="[a-z0-9-]+",
    dataset="[a-z0-9-]+",
    student="[a-z0-9-]+",
    teacher="[a-z0-9-]+",
    train_type="[A-Za-z-]+",
    seed=r"\d+",
    fingerprint="[0-9a-f]{16}",
    part="[0-9a-f]{16}",


def manifest(folder):
    """Return an artefact's manifest: the file that stands for it between rules.

    DVC may bring it, with a new time, after what was made from it; its path says what it is, so
    times must not decide.
    """
    return ancient(f"{folder}/manifest.json")


def dataset_of(name):
    """Return a dataset's spec."""
    return datasets.get(name, config["sources"].get(name))


def source_flag(wildcards):
    """Return the flag that says where a dataset's data are, as a list; empty for the official place."""
    source = config["sources"].get(wildcards.dataset)
    return ["--dataset-source", source] if source else []


def teacher_name(wildcards):
    """Return the name that the command line knows a teacher by (a key in a path may stand for a hub id)."""
    return TEACHERS[f"data/teachers/{wildcards.teacher}/{wildcards.fingerprint}"]
