"""Finished runs, read from their folders and checked against their cells. No torch here."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from clipkd.core.artifacts import MANIFEST, open_artifact
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity
from clipkd.core.typed_json import dotted, problem, read_model, remedy, validated, wrong_field
from clipkd.runs.correct import CORRECT, unpacked
from clipkd.runs.record import (
    COST,
    ENVIRONMENT,
    FAILED,
    HISTORY,
    KIND,
    METRICS,
    Cost,
    Environment,
    EpochRecord,
    Failure,
    Metrics,
    RunFacts,
    SignalContent,
)
from clipkd.spec.cells import Cell
from clipkd.spec.identities import names
from clipkd.spec.selection import kept_by


@dataclass(frozen=True)
class FinishedRun:
    """The record of a finished run, checked against its cell."""

    cell: Cell
    path: Path
    """Its folder."""
    metrics: Metrics
    cost: Cost
    identity: Identity
    """What made it, as its manifest says."""
    history_sha256: str
    signal: tuple[SignalContent, ...]
    """Which bytes taught it; none where it has no teacher, or does not say."""
    environment: Environment | None
    """None where the run does not say."""
    correct_file: Path | None = None
    """None where the run is of a version that kept no results of single images."""

    def correct(self, epoch: str) -> np.ndarray | None:
        """Return which test images the student of an epoch (`last`, or another: the selected one) classifies correctly.

        Raises:
            DataError: the file is damaged, or is not that of the run's accuracy.
        """
        test = self.metrics.chosen(epoch).test
        if self.correct_file is None or test is None:
            return None
        kind = "last" if epoch == "last" else "selected"
        found = unpacked(self.correct_file).get(kind)
        if found is None or abs(found.mean() - test.top1) > 1e-6:
            raise DataError(
                f"{self.correct_file}: '{kind}' is not what top1 in {METRICS} counts; {remedy(self.correct_file)}"
            )
        return found

    @property
    def made_with(self) -> str | None:
        """What changes the last digits of its numbers and is not part of its identity; None where it does not say.

        Sums are taken in another order by other libraries and devices, on a CPU by each number of threads, and where
        several students are computed at once, however many.
        """
        if self.environment is None:
            return None
        stack = ", in a stack" if self.cost.side_by_side > 1 else ""
        return f"{self.environment}{self.cost.device.counted_threads}{stack}"

    @cached_property
    def history(self) -> list[EpochRecord]:
        """Its epochs, which only figures show: of thousands of runs they take longer to read than all else.

        Raises:
            DataError: a line or a column is missing, unknown or impossible.
        """
        return read_history(self.path / HISTORY, self.cell.epochs)


def read_run(cell: Cell, folder: Path) -> FinishedRun:
    """Read and check a run folder.

    Raises:
        DataError: a file is missing or damaged, or a field is missing, unknown, impossible,
            or of another run than `cell`; the message names file and field.
    """
    metrics = read_model(folder / METRICS, Metrics)
    check_metrics(metrics, cell, folder / METRICS)
    cost = read_model(folder / COST, Cost)
    check_cost(cost, cell, folder / COST)
    # Last, so that an impossible number is named by its field; this finds a possible one that was not written so.
    artifact = open_artifact(folder, KIND, only=(METRICS, COST, HISTORY, ENVIRONMENT, CORRECT))
    if artifact.manifest["fingerprint"] != metrics.fingerprint:
        raise wrong_field(folder / METRICS, "fingerprint", "differs from that of the manifest.json beside it")
    history_sha256 = artifact.manifest["files"][artifact.file(HISTORY).name]["sha256"]
    correct = folder / CORRECT if CORRECT in artifact.manifest["files"] else None
    signal = tuple(validated(RunFacts, artifact.facts, folder / MANIFEST).signal)
    environment = read_environment(folder)
    return FinishedRun(cell, folder, metrics, cost, artifact.identity, history_sha256, signal, environment, correct)


def check_metrics(metrics: Metrics, cell: Cell, path: Path) -> None:
    """Raise DataError unless the metrics are those of a cell."""
    for name, wanted in names(cell).items():
        found = getattr(metrics.cell, name)
        if found != wanted:
            raise wrong_field(path, f"cell.{name}", f"is {found!r}, but the folder is that of {wanted!r}")
    epochs, classes, selection = metrics.epochs, metrics.classes, cell.selection
    if epochs != cell.epochs:
        raise wrong_field(path, "epochs", f"is {epochs}, the config asks for {cell.epochs}")
    if cell.has_labels and (classes < 2 or cell.dataset_spec.classes not in (None, classes)):
        raise wrong_field(path, "classes", f"is {classes}, {cell.dataset} has {cell.dataset_spec.classes or 'more'}")
    if cell.has_labels and not (metrics.last.test and metrics.selected.test):
        raise wrong_field(path, "last.test" if metrics.selected.test else "selected.test", "is missing")
    if metrics.last.epoch != epochs:
        raise wrong_field(path, "last.epoch", f"is {metrics.last.epoch}, the run has {epochs} epochs")
    if metrics.selected.epoch > epochs:
        raise wrong_field(path, "selected.epoch", f"is {metrics.selected.epoch}, the run has {epochs} epochs")
    # With few validation images, an older run has kept the epoch that they chose; its number may be unknown too.
    by, kept = metrics.selected.by, kept_by(selection, metrics.validation_images or 0)
    if by not in (selection, kept) or (by == "last" and metrics.selected.epoch != epochs):
        raise wrong_field(path, "selected.by", f"is {by!r}, recipe {cell.recipe_spec.name} selects by {selection!r}")


def check_cost(cost: Cost, cell: Cell, path: Path) -> None:
    """Raise DataError unless the cost is that of a cell."""
    if len(cost.seconds_per_epoch) != cell.epochs:
        raise wrong_field(path, "seconds_per_epoch", f"does not hold one number for each of {cell.epochs} epochs")
    source = cost.teacher.source
    wanted = "none" if cell.method.signal == "nothing" else cell.teacher_source
    if source != wanted:
        raise wrong_field(path, "teacher.source", f"is {source!r}, the run's teacher is {wanted!r}")


def read_environment(folder: Path) -> Environment | None:
    """Return what a run was made with; None where it does not say."""
    path = folder / ENVIRONMENT
    return read_model(path, Environment) if path.exists() else None


def read_failure(folder: Path) -> str | None:
    """Return why a run failed, in words; None where it did not."""
    path = folder / FAILED
    return read_model(path, Failure).message if path.exists() else None


def read_history(path: Path, epochs: int) -> list[EpochRecord]:
    """Read and check history.csv."""
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream, restkey="unnamed"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; {remedy(path)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is damaged: not CSV ({error}); {remedy(path)}") from None
    found = [read_epoch(line, path, number) for number, line in enumerate(lines, start=1)]
    if [epoch.epoch for epoch in found] != list(range(1, epochs + 1)):
        raise DataError(f"{path}: column 'epoch' does not count 1 to {epochs}; {remedy(path)}")
    if len({epoch.split for epoch in found}) > 1:
        raise DataError(f"{path}: column 'split' holds more than one split; {remedy(path)}")
    return found


def read_epoch(line: dict[str, str], path: Path, number: int) -> EpochRecord:
    """Return the epoch of a line of history.csv, from its text."""
    try:
        return EpochRecord.of({name: parsed(text) for name, text in line.items()})
    except ValidationError as error:
        first = error.errors()[0]
    column, what = dotted(first).replace(".", "_"), problem(first)
    where = f"{path}: column '{column}'" + ("" if what == "is missing" else f" of epoch {number}")
    raise DataError(f"{where} {what}; {remedy(path)}")


def parsed(text: str | None) -> int | float | str | None:
    """Return the number that a text writes; the text itself where it writes none."""
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)  # type: ignore[arg-type, union-attr]
    except (AttributeError, ValueError):
        return text
