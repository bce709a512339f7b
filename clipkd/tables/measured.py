"""Evaluations of a grid's runs, as `clipkd evaluate` has written them, and their numbers for the frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clipkd.core.artifacts import content_of, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.typed_json import read_model
from clipkd.core.words import counted, verb
from clipkd.runs.measured import EVALUATIONS, Evaluation
from clipkd.spec.cells import Cell


def read_all(asked: Sequence[str], runs: Path, finished: Iterable[Cell]) -> tuple[dict[Cell, Evaluation], list[str]]:
    """Return the evaluations of finished runs, and the folders of those without all of the measures that are asked for.

    Args:
        asked: names of measures; without any, nothing is read.
        runs: the folder of all run folders; evaluations lie beside it.
        finished: cells of finished runs.

    Raises:
        DataError: a file is damaged.
    """
    found: dict[Cell, Evaluation] = {}
    missing = []
    for cell in finished if asked else ():
        if not is_evaluated(cell):
            continue
        one = evaluation_of(cell, runs.parent, asked)
        if one is not None:
            found[cell] = one
        else:
            missing.append(cell.folder)
    return found, missing


def is_evaluated(cell: Cell) -> bool:
    """Return whether a cell's student has an accuracy, beside which more is measured."""
    return cell.has_labels and not cell.is_cost_run


def evaluation_of(cell: Cell, results: Path, asked: Sequence[str]) -> Evaluation | None:
    """Return the evaluation of the student that a run folder holds now, on the test images of its own dataset.

    None: there is none, it is of another student or of other images, or it lacks a measure.

    Raises:
        DataError: the file, or the run's manifest, is damaged.
    """
    path = file_of(cell, results)
    if not path.exists():
        return None
    found, manifest = read_model(path, Evaluation), read_manifest(results / "runs" / cell.folder)
    student = content_of(manifest)
    images = manifest["identity"]["dataset"]["content"]
    is_whole = set(asked) <= {*found.measures, *found.not_measured}
    return found if found.is_of(student, images) and is_whole else None


def file_of(cell: Cell, results: Path) -> Path:
    """Return the file of a run's evaluation, where `clipkd evaluate` writes it."""
    return results / EVALUATIONS / f"{cell.folder}.json"


def refuse_missing(missing: Sequence[str], asked: Sequence[str], runs: Path) -> None:
    """Raise DataError where evaluations that a config asks for are not there, of an earlier student or other images."""
    if missing:
        listed = "\n  ".join(missing)
        raise DataError(
            f"{counted(len(missing), 'run')} below {runs} {verb(len(missing))} not evaluated as the config's "
            f"`evaluation` asks: give `clipkd evaluate RUN --measures {','.join(asked)}` for each, or add `--partial` "
            "to show what is there:\n  " + listed
        )


def numbers(evaluation: Evaluation | None, asked: Sequence[str]) -> dict[str, float]:
    """Return MEASURE_NUMBER -> what was measured of a student."""
    return {
        f"{measure}_{name}": float(number)
        for measure in asked
        if evaluation is not None and measure in evaluation.measures
        for name, number in evaluation.measures[measure].numbers.items()
    }
