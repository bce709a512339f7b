"""The command line: one verb a stage. `clipkd train` takes the flags of the paper's released code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipkd import __version__, datasets, methods, recipes, students, teachers
from clipkd.cells import NO_TEACHER, Cell, checked
from clipkd.embeddings.views import Sample
from clipkd.errors import ClipkdError, InputError, MachineError
from clipkd.layout import Layout

KINDS = {
    "datasets": datasets.names,
    "teachers": teachers.names,
    "students": students.names,
    "train-types": methods.names,
    "recipes": recipes.names,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code (2 bad input, 3 bad data, 4 the machine lacks something)."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except ClipkdError as error:
        print(f"clipkd {options.verb}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"clipkd {options.verb}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"clipkd {options.verb}: error: {where}{error.strerror or error}", file=sys.stderr)
        return MachineError.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = argparse.ArgumentParser(
        prog="clipkd", description="Knowledge distillation that never runs the teacher twice."
    )
    top.add_argument("--version", action="version", version=f"clipkd {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], None], text: str, *parts: Callable[[Any], None]) -> Any:
        child = verbs.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        child.set_defaults(run=run)
        for part in parts:
            part(child)
        return child

    child = verb("download", download, "Download a dataset and pack it into uint8 arrays.", data_options)
    child.add_argument("dataset", help="a dataset's name, for example cifar10")
    child = verb(
        "fetch",
        fetch,
        "Fetch a teacher's checkpoint at its pinned commit (needs internet); train it if the workflow makes it.",
        data_options,
        device_options,
    )
    child.add_argument("teacher", help="a teacher's name, hub id or OWNER/MODEL@COMMIT")
    child = verb("pin", pin, "Ask the hub for a teacher's current commit and lock it in config/teachers.lock.json.")
    child.add_argument("teacher", help="a teacher's name, for example vit-b32-in21k")
    child = verb(
        "extract",
        extract,
        "Run a teacher over a dataset, once, into the embedding store.",
        data_options,
        store_options,
        device_options,
    )
    child.add_argument(
        "--views",
        choices=["full", "sample"],
        required=True,
        help="every image (teacher-KD, vanilla, probes), or the few per class that prototypes need",
    )
    child.add_argument("--embed-batch-size", type=positive, default=64, help="images per teacher pass")
    verb("prototypes", prototypes, "Average a stored sample into one prototype per class.", data_options, store_options)
    verb(
        "probe",
        probe,
        "Fit the linear probe on stored embeddings and write class scores.",
        data_options,
        store_options,
        device_options,
    )
    train_options(
        verb(
            "train",
            train,
            "Train a student; what it needs of the teacher is taken from the store or made first.",
            data_options,
            store_options,
            device_options,
        )
    )
    child = verb("evaluate", evaluate, "Measure a saved student on the test split.", data_options, device_options)
    child.add_argument("checkpoint", type=Path, help="a .safetensors or .pt file")
    child.add_argument("--dataset-name", required=True, help="the dataset that it was trained on")
    child.add_argument("--student", default="base-32", help="the student that the file holds")
    child.add_argument("--recipe", default="corrected", help="decides how the loss is computed")
    for name, run, text in (
        ("tables", tables, "Write the tables from run folders."),
        ("figures", figures, "Draw the figures from run folders."),
    ):
        child = verb(name, run, text, data_options)
        child.add_argument(
            "--config", type=Path, default=Path("results/config.json"), help="the resolved config whose grid is shown"
        )
        child.add_argument("--results", type=Path, default=Path("results"), help="folder that holds runs/")
        child.add_argument("--output", type=Path, default=Path("results") / name, help="folder to write into")
        child.add_argument("--partial", action="store_true", help="accept missing runs, and mark what they touch")
    child = verb("list", list_names, "List the names that can be used.")
    child.add_argument("kind", nargs="?", choices=list(KINDS), help="one axis only")
    return top


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def seed(text: str) -> int:
    """Parse a seed: what both torch and numpy take."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..{2**32 - 1}")
    return number


def rate(text: str) -> float:
    """Parse a finite number of at least 0."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return number


def data_options(child: argparse.ArgumentParser) -> None:
    """Add where data lie."""
    child.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets, teachers and embeddings")
    child.add_argument("--dataset-source", help="where the dataset's data are: base URL, archive or folder")


def device_options(child: argparse.ArgumentParser) -> None:
    """Add what computes."""
    child.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="a GPU where there is one, or a choice"
    )
    child.add_argument("--threads", type=positive, help="CPU threads (default: torch's own choice)")


def store_options(child: argparse.ArgumentParser) -> None:
    """Add what tells one embeddings artefact from another."""
    child.add_argument("--dataset-name", required=True, help="CIFAR10, CIFAR100, ImageNet, ...; case is ignored")
    child.add_argument(
        "--teacher-model", default=NO_TEACHER, help="name, Hugging Face id, OWNER/MODEL@COMMIT or folder"
    )
    child.add_argument("--recipe", default="corrected", help="reference (the released code's mathematics) or corrected")
    child.add_argument("--student", default="base-32", help="the student network")
    child.add_argument(
        "--embed-dtype", choices=["float16", "float32"], default="float16", help="number format of stored embeddings"
    )
    child.add_argument("--per-class", type=positive, default=100, help="images per class prototype")
    child.add_argument(
        "--prototype-seed", type=seed, default=0, help="seed of the images and flips that prototypes are made of"
    )


def train_options(child: argparse.ArgumentParser) -> None:
    """Add a training's own flags; the first three are the released code's."""
    child.add_argument("--train-type", required=True, help="embed-KD, teacher-KD, vanilla, supervised or a control")
    child.add_argument(
        "--log-folder", type=Path, help="the run's folder (default: results/runs/<recipe>/<dataset>/...)"
    )
    child.add_argument(
        "--ckpt-save-name",
        type=Path,
        help="student file, .pt or .safetensors; a bare name lies in the log folder (default: student.safetensors)",
    )
    child.add_argument("--seed", type=seed, default=0, help="seed of weights, order, flips and dropout")
    child.add_argument(
        "--teacher-source",
        choices=["cached", "live"],
        default="cached",
        help="stored signal, or the teacher in every step",
    )
    child.add_argument("--epochs", type=positive, default=200)
    child.add_argument("--batch-size", type=positive, default=64)
    child.add_argument("--learning-rate", type=rate, default=1e-4)
    child.add_argument("--weight-decay", type=rate, default=0.1)
    child.add_argument(
        "--embed-batch-size",
        type=positive,
        default=64,
        help="images per teacher pass, where embeddings have to be made",
    )


def layout_of(options: argparse.Namespace) -> Layout:
    """Return the layout that the options name."""
    if not hasattr(options, "embed_dtype"):
        return Layout(options.data)
    return Layout(options.data, options.embed_dtype, Sample(options.per_class, options.prototype_seed))


def cell_of(options: argparse.Namespace, train_type: str) -> Cell:
    """Return the cell that the options name, every name checked."""
    method = methods.get(train_type)
    if method.signal != "nothing" and options.teacher_model == NO_TEACHER:
        raise InputError(f"train type '{method.name}' needs --teacher-model (known: {', '.join(teachers.names())})")
    spec = None if method.signal == "nothing" else teachers.get(options.teacher_model)
    if spec is not None and spec.available:
        raise InputError(spec.available)
    cell = Cell(
        recipe=recipes.get(options.recipe).name,
        dataset=datasets.get(options.dataset_name, options.dataset_source).name,
        student=students.get(options.student).name,
        teacher=NO_TEACHER if spec is None else options.teacher_model,
        train_type=method.name,
        seed=getattr(options, "seed", 0),
        teacher_source=getattr(options, "teacher_source", "cached"),
        epochs=getattr(options, "epochs", 1),
        source=options.dataset_source,
    )
    return checked(cell)


def device_of(options: argparse.Namespace) -> Any:
    """Return the torch device, after setting the threads."""
    import torch

    from clipkd import device

    if options.threads:
        torch.set_num_threads(options.threads)
    return device.choose(options.device)


# Names are checked before anything imports torch, which takes seconds.


def download(options: argparse.Namespace) -> None:
    spec = datasets.get(options.dataset, options.dataset_source)
    from clipkd import stages

    stages.dataset(spec, layout_of(options), options.dataset_source)


def fetch(options: argparse.Namespace) -> None:
    spec = teachers.get(options.teacher)
    if spec.available:
        raise InputError(spec.available)
    from clipkd import stages

    stages.teacher(spec, layout_of(options), device_of(options))


def pin(options: argparse.Namespace) -> None:
    from clipkd.embeddings.checkpoint import pin

    entry = pin(options.teacher)
    print(f"{teachers.LOCK}: {options.teacher} is pinned at {entry['revision']}")


def extract(options: argparse.Namespace) -> None:
    layout = layout_of(options)
    cell = cell_of(options, "teacher-KD" if options.views == "full" else "embed-KD")
    store = layout.full_embeddings(cell) if options.views == "full" else layout.sample_embeddings(cell)
    from clipkd import stages

    stages.embeddings(store, layout, options.dataset_source, device_of(options), options.embed_batch_size)
    print(store.folder)


def prototypes(options: argparse.Namespace) -> None:
    cell = cell_of(options, "embed-KD")
    store, form = layout_of(options).sample_embeddings(cell), cell.recipe_spec.prototype_form
    from clipkd import stages

    stages.prototypes(store, form)
    print(store.prototypes(form)[0])


def probe(options: argparse.Namespace) -> None:
    layout = layout_of(options)
    store = layout.full_embeddings(cell_of(options, "vanilla"))
    from clipkd import stages

    stages.head(store, layout, options.dataset_source, device_of(options))
    print(store.head()[0])


def train(options: argparse.Namespace) -> None:
    cell = cell_of(options, options.train_type)
    from clipkd import stages
    from clipkd.runs import RunFolder
    from clipkd.training.job import Hyperparameters, open_job
    from clipkd.training.loop import train

    folder = options.log_folder or Path("results/runs") / cell.folder
    name = options.ckpt_save_name
    checkpoint = folder / name if name is not None and name.parent == Path() else name
    run_folder = RunFolder(folder, checkpoint)
    device, layout = device_of(options), layout_of(options)
    stages.for_training(cell, layout, device, options.embed_batch_size)
    numbers = Hyperparameters(options.epochs, options.batch_size, options.learning_rate, options.weight_decay)
    train(open_job(cell, numbers, layout, device), run_folder)
    print(folder)


def evaluate(options: argparse.Namespace) -> None:
    spec = datasets.get(options.dataset_name, options.dataset_source)
    student, recipe = students.get(options.student), recipes.get(options.recipe)
    from clipkd.data.dataset import open_dataset
    from clipkd.training.checkpoint import evaluate_file

    device = device_of(options)
    dataset = open_dataset(spec, layout_of(options).dataset(spec))
    score = evaluate_file(options.checkpoint, dataset, student, recipe, device)
    print(f"top-1 {score['top1']:.4f}  top-5 {score['top5']:.4f}  loss {score['loss']:.4f}  ({spec.title}, test split)")


def tables(options: argparse.Namespace) -> None:
    from clipkd.tables import write_tables

    write_tables(resolved(options.config), options.results, options.data, options.output, options.partial)


def figures(options: argparse.Namespace) -> None:
    from clipkd.figures import write_figures

    write_figures(resolved(options.config), options.results, options.data, options.output, options.partial)


def resolved(path: Path) -> dict[str, Any]:
    """Return a resolved config, as the workflow writes it; InputError where it is not there."""
    from clipkd.artifacts import read_json

    if not path.exists():
        raise InputError(f"{path} does not exist: the workflow writes it; make it with `snakemake {path}`")
    config = read_json(path)
    if not isinstance(config, dict) or not {"grid", "training", "embeddings", "prototypes", "sources"} <= config.keys():
        raise InputError(f"{path} is no resolved config: make it with `snakemake {path}`")
    return config


def list_names(options: argparse.Namespace) -> None:
    for kind in [options.kind] if options.kind else KINDS:
        print(f"{kind}: {', '.join(KINDS[kind]())}")
