"""`clipkd evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipkd.cli.options import data_options, dataset_of, device_of, device_options, file_to_write, layout_of, refusing
from clipkd.cli.verbs import benchmark
from clipkd.core.artifacts import Artifact, open_artifact
from clipkd.core.artifacts import content_of as digest_of
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import write_text
from clipkd.core.progress import say
from clipkd.data.dataset import Opener, open_dataset
from clipkd.export import measures
from clipkd.plugins import datasets, recipes, students
from clipkd.plugins.teachers._student import CONTENT
from clipkd.runs.record import Score

if TYPE_CHECKING:
    from clipkd.core.fingerprint import Identity
    from clipkd.data.dataset import Dataset
    from clipkd.export.model import Model
    from clipkd.plugins.datasets import DatasetSpec
    from clipkd.runs.measured import Evaluation

SPEED = "speed"
"""The measure that is printed as a table, as `clipkd benchmark` prints it."""
TEXT = "Measure a trained student on the test split of a dataset."
EXAMPLES = """\
examples:
  clipkd evaluate results/runs/corrected/digits/tiny-32/none/supervised/seed0
  clipkd evaluate RUN --dataset birds --dataset-source photos/birds
  clipkd evaluate RUN --dataset flowers --measures knn,probe
  clipkd evaluate RUN --measures calibration,knn,speed
  clipkd evaluate student.pt --dataset cifar10 --student base-32 --recipe reference
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    device_options(child)
    child.add_argument(
        "student_path", metavar="RUN", type=Path, help="a run folder, an export, or a .safetensors or .pt file"
    )
    child.add_argument(
        "--dataset-name", "--dataset", help="the dataset (default for a folder: the one it was trained on)"
    )
    child.add_argument("--student", help="the student in a file (default: base-32); folders define it")
    child.add_argument("--recipe", help="how the loss is computed (default for a file: corrected); folders define it")
    known = "; ".join(f"{name}: {measures.get(name).title}" for name in measures.names())
    child.add_argument(
        "--measures",
        type=refusing(measures.chosen),
        metavar="NAME,NAME",
        help=f"what to measure beside accuracy, of a folder (docs/evaluation.md): all, or some of {known}",
    )
    child.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON file of the measures (default for the run results/runs/A/B: results/evaluations/A/B.json)",
    )
    child.add_argument(
        "--stamp",
        type=Path,
        metavar="FILE",
        help="file to write when all is measured; for workflows: what the file of measures has of this student is not "
        "measured again",
    )


def run(options: argparse.Namespace) -> None:
    evaluate(options)
    if options.stamp:
        write_text(options.stamp, "")


def evaluate(options: argparse.Namespace) -> None:
    """Measure what the options name."""
    if options.output is not None:
        if options.measures is None:
            raise InputError("--output is the file of --measures: name some, for example --measures all")
        file_to_write(options.output, example="evaluation.json")
        refuse_output(options.output, options.student_path)
    if options.student_path.is_dir():
        evaluate_folder(options)
        return
    if options.measures is not None:
        raise InputError(f"--measures needs a run folder or an export, and {options.student_path} is neither")
    if options.dataset_name is None:
        if not options.student_path.exists():
            raise InputError(
                f"{options.student_path} does not exist: name a run folder, an export or a file of weights"
            )
        raise InputError(f"{options.student_path} does not say what it was trained on: give --dataset")
    spec = dataset_of(options, options.dataset_name)
    student, recipe = students.get(options.student or "base-32"), recipes.get(options.recipe or "corrected")
    from clipkd.plugins.students._saved import Misfit
    from clipkd.runs.load_student import evaluate_file

    device = device_of(options)
    dataset = opened(spec, options)
    try:
        score = evaluate_file(options.student_path, dataset, student, recipe, device)
    except Misfit as error:
        hint = (
            "" if options.student else f"\ngive its architecture with --student (known: {', '.join(students.names())})"
        )
        raise DataError(f"{error}{hint}") from None
    show(score, spec.title)


def refuse_output(path: Path, folder: Path) -> None:
    """Raise InputError where an evaluation can't go to a file that the user names, before anything is measured."""
    if folder.resolve() in path.resolve().parents:
        raise InputError(f"--output {path} lies in {folder}, whose files are those of its manifest: name another place")
    refuse_unreadable(path)


def refuse_unreadable(path: Path) -> None:
    """Raise InputError where a file that more is to be added to is no evaluation, before anything is measured."""
    from clipkd.export.evaluation import read

    if path.exists():
        try:
            read(path)
        except DataError as error:
            raise InputError(str(error)) from None


def evaluate_folder(options: argparse.Namespace) -> None:
    """Measure the student of a run folder or an export, which say what student it is."""
    from clipkd.export.model import load
    from clipkd.export.subject import Subject
    from clipkd.runs.load_student import evaluate_student

    device = device_of(options)
    model = load(options.student_path, device.type)
    for given, name in ((options.student, "--student"), (options.recipe, "--recipe")):
        if given is not None:
            raise InputError(f"{options.student_path} already defines its {name[2:]}; drop {name}")
    name = options.dataset_name or model.trained["dataset"]
    spec, opener = dataset_here(options, name)
    dataset = opened(spec, options, opener)
    if dataset.classes != model.classes:
        if options.measures is None:
            its = f"has the classes {listed(model.classes)}" if model.classes else "was trained without classes"
            raise InputError(
                f"{options.student_path} {its}, but {spec.title} has {listed(dataset.classes)}; its embeddings can be "
                "measured there all the same: add --measures knn,probe"
            )
        measure(options, model, dataset, None)
        return
    trained_on = content_of(model)
    if trained_on not in (None, dataset.content):
        say(
            f"{dataset.artifact.path} holds other images than those that {options.student_path} was trained on: "
            "some of its training images may be among the test images"
        )
    recipe, steps = recipes.get(model.trained["recipe"]), model.preprocessing
    as_trained = Subject(model, dataset, options.data).as_trained
    score = evaluate_student(model.student, dataset, steps, recipe, device, as_trained)
    show(score, spec.title)
    if options.measures is not None:
        measure(options, model, dataset, score)


def dataset_here(options: argparse.Namespace, name: str) -> tuple[DatasetSpec, Opener]:
    """Return a dataset as it lies packed, or else from where the options say it is; and what opens it."""
    packed = options.data / "datasets" / name
    if options.dataset_source is None and packed.is_dir():
        return datasets.get(name, str(packed)), open_artifact if name in datasets.names() else as_packed
    try:
        return dataset_of(options, name), open_artifact
    except InputError as error:
        raise InputError(f"{error}; or go to the folder of the student's project, where {packed} is") from None


def as_packed(folder: Path, kind: str, _: Identity, only: Collection[str] | None) -> Artifact:
    """Open a packed dataset whatever its source: without `--dataset-source` only its manifest says what that was."""
    return open_artifact(folder, kind, only=only)


def opened(spec: DatasetSpec, options: argparse.Namespace, opener: Opener = open_artifact) -> Dataset:
    """Return the dataset that a student is measured on; InputError where it has nothing to measure with."""
    dataset = open_dataset(spec, layout_of(options).dataset(spec), opener=opener, source=options.dataset_source)
    if not len(dataset.test_labels):
        raise InputError(f"{spec.title} has no labelled test images: name a labelled dataset with --dataset")
    return dataset


def measure(options: argparse.Namespace, model: Model, dataset: Dataset, score: Score | None) -> None:
    """Measure what is asked for, print it, a line for each measure, and write it."""
    from clipkd.export.evaluation import default_file, save
    from clipkd.export.evaluation import evaluate as measured
    from clipkd.export.subject import Subject
    from clipkd.report.figures import reliability, style

    name = dataset.spec.name
    path = options.output or default_file(options.student_path, model.trained["dataset"], name)
    file_to_write(path, example="evaluation.json")
    refuse_unreadable(path)
    asked = lacking(path, options.measures, model, dataset) if options.stamp else options.measures
    evaluation = measured(Subject(model, dataset, options.data), score, asked)
    for one in asked:
        if one.name == SPEED and SPEED in evaluation.measures:
            lines = benchmark.lines_of(evaluation.measures[SPEED], model.preprocessing.size)
            print(f"{SPEED}:", *(f"  {text}".rstrip() for text in lines), sep="\n")
        else:
            print(f"{one.name}: {line(one, evaluation)}")
    save(evaluation, path)
    say(f"written: {path}")
    if reliability.MEASURE in evaluation.measures:
        with style.styled():
            style.save(reliability.draw(evaluation), path.parent, f"{path.stem}-reliability")
        say(f"reliability diagram: {path.with_name(f'{path.stem}-reliability')}.png and .svg")


def lacking(path: Path, asked: Sequence[measures.Measure], model: Model, dataset: Dataset) -> list[measures.Measure]:
    """Return the measures that a file of this student and these images does not hold, or of another protocol."""
    from clipkd.export.evaluation import read

    before = read(path) if path.exists() else None
    if before is None or not before.is_of(digest_of(model.manifest), dataset.content):
        return list(asked)
    known = {name: found.protocol for name, found in before.measures.items()}
    if there := [one.name for one in asked if known.get(one.name) == one.protocol]:
        say(f"{path} holds {', '.join(there)} of this student: not measured again")
    return [one for one in asked if known.get(one.name) != one.protocol]


def line(one: measures.Measure, evaluation: Evaluation) -> str:
    """Return what a measure found, in one line."""
    if one.name in evaluation.not_measured:
        return f"not measured: {evaluation.not_measured[one.name]}"
    found = evaluation.measures[one.name]
    missing = found.details.get("not_measured", {})
    texts = [f"{number} {shown(value)}" for number, value in found.numbers.items()]
    texts += [f"{number} not measured ({why})" for number, why in missing.items()]
    if labelled := found.details.get("labelled_images"):
        texts.append(f"(fitted to {labelled:,} labelled images)")
    return "  ".join(texts)


def shown(value: float) -> str:
    """Return a number: counts whole, others with four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if value < 100 else f"{value:,.0f}"


def content_of(model: Model) -> str | None:
    """Return the digest of the images that a student was trained on; None for exports of older versions."""
    return model.trained.get(CONTENT)


def listed(names: list[str]) -> str:
    """Return the first few of a list of names."""
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def show(score: Score, title: str) -> None:
    print(f"top-1 {score.top1:.4f}  top-5 {score.top5:.4f}  loss {score.loss:.4f}  ({title}, test split)")
