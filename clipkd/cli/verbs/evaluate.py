"""`clipkd evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.cli.options import data_options, dataset_of, device_of, device_options, layout_of
from clipkd.core.errors import DataError, InputError
from clipkd.plugins import datasets, recipes, students
from clipkd.runs.record import Score

TEXT = "Measure a trained student on the test split of a dataset."
EXAMPLES = """\
examples:
  clipkd evaluate results/runs/corrected/digits/tiny-32/none/supervised/seed0
  clipkd evaluate RUN --dataset birds --dataset-source photos/birds
  clipkd evaluate student.pt --dataset cifar10 --student base-32 --recipe reference
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    device_options(child)
    child.add_argument(
        "student_path", metavar="RUN", type=Path, help="a run folder, an export, or a .safetensors or .pt file"
    )
    child.add_argument("--dataset-name", "--dataset", help="the dataset; a folder knows the one it was trained on")
    child.add_argument("--student", help="the student that a file holds (default: base-32); a folder knows it")
    child.add_argument(
        "--recipe", help="decides how the loss is computed (default: corrected for a file); a folder knows it"
    )


def run(options: argparse.Namespace) -> None:
    if options.student_path.is_dir():
        evaluate_folder(options)
        return
    if options.dataset_name is None:
        raise InputError(f"{options.student_path} is a file that does not say what it was trained on: give --dataset")
    spec = dataset_of(options, options.dataset_name)
    student, recipe = students.get(options.student or "base-32"), recipes.get(options.recipe or "corrected")
    from clipkd.data.dataset import open_dataset
    from clipkd.runs.load_student import Misfit, evaluate_file

    device = device_of(options)
    dataset = open_dataset(spec, layout_of(options).dataset(spec))
    try:
        score = evaluate_file(options.student_path, dataset, student, recipe, device)
    except Misfit as error:
        told = (
            ""
            if options.student
            else f"\ngive --student, which it was trained as (known: {', '.join(students.names())})"
        )
        raise DataError(f"{error}{told}") from None
    show(score, spec.title)


def evaluate_folder(options: argparse.Namespace) -> None:
    """Measure the student of a run folder or an export; what it is stands in the folder."""
    from clipkd.data.dataset import open_dataset
    from clipkd.export.model import load
    from clipkd.runs.load_student import evaluate_student

    device = device_of(options)
    model = load(options.student_path, device.type)
    for given, name in ((options.student, "--student"), (options.recipe, "--recipe")):
        if given is not None:
            raise InputError(f"{options.student_path} knows its own {name[2:]}: leave out {name}")
    name = options.dataset_name or model.trained["dataset"]
    packed = options.data / "datasets" / name  # stands for the source of a folder of images that is packed already
    if options.dataset_source is None and packed.is_dir():
        spec = datasets.get(name, str(packed))
    else:
        spec = dataset_of(options, name)
    dataset = open_dataset(spec, layout_of(options).dataset(spec))
    if dataset.classes != model.classes:
        raise InputError(
            f"{options.student_path} tells the classes {listed(model.classes)} apart, {spec.title} has "
            f"{listed(dataset.classes)}"
        )
    recipe, steps = recipes.get(model.trained["recipe"]), model.preprocessing
    show(evaluate_student(model.student, dataset, steps, recipe, device), spec.title)


def listed(names: list[str]) -> str:
    """Return the first few of a list of names."""
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def show(score: Score, title: str) -> None:
    print(f"top-1 {score.top1:.4f}  top-5 {score.top5:.4f}  loss {score.loss:.4f}  ({title}, test split)")
