"""Runs side by side: which of their settings differ, what they reached and what they cost. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import MANIFEST
from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity
from clipkd.core.typed_json import read_model
from clipkd.plugins import datasets
from clipkd.runs.finished import FinishedRun, read_run
from clipkd.runs.record import METRICS, Metrics
from clipkd.spec.cells import Cell
from clipkd.spec.identities import AXES
from clipkd.tables.table import Column, Entry, Table, significant

MEGABYTE = 1e6
EXPLAINED = {
    "recipe": ("recipe",),
    "student": ("student",),
    "dataset": ("dataset",),
    "signal": ("teacher", "train_type", "recipe", "teacher_source", "dataset"),
}
"""Part of a run's identity -> the names whose difference explains any difference in it."""


@dataclass(frozen=True)
class Shown:
    """A run to compare."""

    folder: Path
    run: FinishedRun

    @property
    def identity(self) -> Identity:
        return self.run.metrics.identity


def read(folder: Path) -> Shown:
    """Read a run folder wherever it lies.

    Raises:
        InputError: it is no folder of a finished run.
        DataError: one of its files is damaged; the message names file and field.
    """
    if not (folder / METRICS).is_file() or not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is no folder of a finished run: it lacks {METRICS} or {MANIFEST}")
    metrics = read_model(folder / METRICS, Metrics)
    known = metrics.cell.dataset in datasets.names()
    cell = Cell(**metrics.cell.model_dump(), epochs=metrics.epochs, source=None if known else str(folder))
    return Shown(folder, read_run(cell, folder))


def settings(shown: Sequence[Shown]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the settings that differ, name -> value of each run, and those of the main ones that do not."""
    parts = [one.identity for one in shown]
    names = {name: [part["cell"][name] for part in parts] for name in AXES}
    main = names | flat("", [part["training"] for part in parts])
    differ = {name: values for name, values in main.items() if not same(values)}
    for part, explained_by in EXPLAINED.items():
        if not any(name in differ for name in explained_by):
            found = flat(f"{part} ", [identity.get(part, {}) for identity in parts])
            differ |= {name: values for name, values in found.items() if not same(values)}
    return differ, {name: values[0] for name, values in main.items() if same(values)}


def same(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def flat(before: str, parts: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the leaves of nested settings, name -> value of each run; None where a run has no such setting."""
    found: dict[str, list[Any]] = {}
    for index, part in enumerate(parts):
        for name, value in leaves(part):
            found.setdefault(f"{before}{name}", [None] * len(parts))[index] = value
    return found


def leaves(part: Any, before: str = "") -> list[tuple[str, Any]]:
    """Return the dotted names and values of nested settings."""
    if not isinstance(part, dict):
        return [(before, part)]
    return [leaf for name, child in part.items() for leaf in leaves(child, f"{before}.{name}" if before else name)]


def label(shown: Sequence[Shown], index: int) -> str:
    """Return what tells a run from the others, in few words."""
    differ = settings(shown)[0]
    told = [said(name, values[index]) for name, values in differ.items()]
    return ", ".join(told[:3]) if told else str(shown[index].folder)


def said(name: str, value: Any) -> str:
    """Return a setting in words; a name speaks for itself, a number does not."""
    return str(value) if isinstance(value, str) and len(value) < 40 else f"{name.replace('_', ' ')} {short(value)}"


def short(value: Any) -> str:
    """Return a value in at most 24 characters."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def table(shown: Sequence[Shown]) -> Table:
    """Return the comparison: a row for each run."""
    differ, equal = settings(shown)
    columns = [Column("Run", is_number=False)]
    columns += [Column(name.replace("_", " "), is_number=False) for name in differ]
    columns += [Column(name) for name in ("last top-1, %", "selected top-1, %", "selected top-5, %", "epoch")]
    columns += [Column(name) for name in ("s per epoch", "teacher passes", "weights, MB", "parameters")]
    made = Table("comparison", "Runs side by side", columns)
    best = max(one.run.metrics.selected.test.top1 for one in shown)
    for index, one in enumerate(shown):
        run, cost = one.run.metrics, one.run.cost
        selected = run.selected
        made.rows.append(
            [
                Entry(str(index + 1)),
                *(Entry(short(values[index])) for values in differ.values()),
                Entry(f"{100 * run.last.test.top1:.2f}"),
                Entry(f"{100 * selected.test.top1:.2f}", is_best=selected.test.top1 == best),
                Entry(f"{100 * selected.test.top5:.2f}"),
                Entry(f"{selected.epoch} of {run.epochs}"),
                Entry(significant(cost.median_seconds)),
                Entry(f"{cost.teacher.forward_passes:,}"),
                Entry(significant(cost.weights_bytes / MEGABYTE)),
                Entry(f"{run.student_parameters:,}"),
            ]
        )
        made.records.append(
            {
                "run": str(one.folder),
                **{name: values[index] for name, values in differ.items()},
                "last_top1": run.last.test.top1,
                "selected_top1": selected.test.top1,
                "selected_top5": selected.test.top5,
                "selected_epoch": selected.epoch,
                "seconds_per_epoch": cost.median_seconds,
                "teacher_passes": cost.teacher.forward_passes,
                "weights_bytes": cost.weights_bytes,
                "student_parameters": run.student_parameters,
            }
        )
    made.notes = notes(shown, differ, equal)
    return made


def notes(shown: Sequence[Shown], differ: dict[str, list[Any]], equal: dict[str, Any]) -> list[str]:
    """Return which run is which, what is equal, and what forbids a comparison."""
    lines = [f"{index}: {one.folder}" for index, one in enumerate(shown, start=1)]
    if not differ:
        lines.append("Every setting is equal: these are runs of one and the same training.")
    lines.append(f"Equal in all: {', '.join(f'{name} {short(value)}' for name, value in equal.items())}.")
    if any(name == "dataset" or name.startswith("dataset ") for name in differ):
        lines.append("The datasets differ: these accuracies were not measured on the same images.")
    if not same([one.run.cell.recipe_spec.selection for one in shown]):
        lines.append("The recipes choose their epoch on different splits: compare the last epochs.")
    if not same([one.run.cost.device.detail for one in shown]):
        lines.append("The machines differ: seconds can't be compared.")
    if "seed" in differ:
        lines.append("One run a setting tells nothing of the spread over seeds: see the table teacher-matters.")
    return lines


def aligned(made: Table) -> str:
    """Return a table as text for a terminal."""
    lines = [[column.title for column in made.columns], *([entry.text for entry in row] for row in made.rows)]
    widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
    text = ""
    for line in lines:
        padded = (
            words.rjust(width) if column.is_number else words.ljust(width)
            for words, width, column in zip(line, widths, made.columns, strict=True)
        )
        text += "  ".join(padded).rstrip() + "\n"
    return text + "\n" + "".join(f"{note}\n" for note in made.notes)
