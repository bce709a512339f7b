"""Evaluation of a trained student by measures, and its file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from clipkd.core.artifacts import content_of
from clipkd.core.device import describe
from clipkd.core.errors import DataError
from clipkd.core.files import json_text, write_text
from clipkd.core.progress import say
from clipkd.core.typed_json import read_model
from clipkd.core.version import __version__
from clipkd.export.measures import Measure, Measured, NotMeasured
from clipkd.export.subject import Subject
from clipkd.runs.measured import EVALUATIONS, FORMAT, Evaluation, Measurement
from clipkd.runs.record import Device, Score
from clipkd.spec.layout import RUNS


def evaluate(subject: Subject, score: Score | None, measures: Sequence[Measure]) -> Evaluation:
    """Return what the measures find of a student; `score` on the test split, None where its classes are others."""
    found: dict[str, Measurement] = {}
    not_measured: dict[str, str] = {}
    for measure in measures:
        if measure.needs_classes and not subject.has_its_classes:
            not_measured[measure.name] = f"the student does not tell the classes of {subject.dataset.spec.title} apart"
            continue
        try:
            measured = measure.measure(subject)
        except NotMeasured as reason:
            not_measured[measure.name] = str(reason)
            continue
        if all(math.isfinite(number) for number in measured.numbers.values()):
            found[measure.name] = measurement(measure, measured, subject)
        else:
            not_measured[measure.name] = "its numbers are not finite: the student's outputs are too large"
    manifest = subject.model.manifest
    return Evaluation(
        format=FORMAT,
        fingerprint=manifest["fingerprint"],
        student=content_of(manifest),
        trained=subject.model.trained,
        dataset=subject.dataset.spec.name,
        dataset_content=subject.dataset.content,
        test_images=len(subject.dataset.test_labels),
        score=score,
        measures=found,
        not_measured=not_measured,
    )


def measurement(measure: Measure, found: Measured, subject: Subject) -> Measurement:
    """Return what a measure found, and with what."""
    return Measurement(
        protocol=measure.protocol,
        numbers=found.numbers,
        details=found.details,
        clipkd=__version__,
        torch=str(torch.__version__),
        device=Device(**describe(subject.model.device)),
    )


def default_file(folder: Path, trained_on: str, dataset: str) -> Path:
    """Return where an evaluation goes: never into the folder itself, whose files are those of its manifest.

    `results/runs/A/B` -> `results/evaluations/A/B.json`; any other folder -> `FOLDER.evaluation.json` beside it.
    `trained_on`, `dataset`: of a dataset that the student was not trained on, the file's name has the name.
    """
    folder = Path(os.path.abspath(folder))  # by the path as it is given: results/runs may be a link
    suffix = "" if dataset == trained_on else f"-on-{dataset}"
    above = next((one for one in folder.parents if one.name == RUNS.name), None)
    if above is None:
        return folder.with_name(f"{folder.name}{suffix}.evaluation.json")
    place = above.with_name(EVALUATIONS) / folder.relative_to(above)
    return place.with_name(f"{place.name}{suffix}.json")


def read(path: Path) -> Evaluation:
    """Return the evaluation that a file holds; DataError where it holds something else."""
    try:
        return read_model(path, Evaluation)
    except DataError as error:
        raise DataError(
            f"{str(error).partition(';')[0]}; it is no evaluation: delete it, or name another --output"
        ) from None


def save(evaluation: Evaluation, path: Path) -> None:
    """Write an evaluation; what the file holds of other measures of the same student and images stays in it."""
    if path.exists():
        before = read(path)
        if before.is_of(evaluation.student, evaluation.dataset_content):
            known = {**before.measures, **evaluation.measures}
            reasons = {**before.not_measured, **evaluation.not_measured}
            reasons = {name: why for name, why in reasons.items() if name not in evaluation.measures}
            known = {name: one for name, one in known.items() if name not in reasons}
            evaluation = evaluation.model_copy(update={"measures": known, "not_measured": reasons})
        else:
            say(f"{path} held the evaluation of another student or of other images; it is replaced")
    write_text(path, json_text(evaluation.model_dump()))
