"""Comparison of runs: which of their settings differ, what they reached and what they cost. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import MANIFEST
from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity
from clipkd.core.typed_json import read_model
from clipkd.plugins import datasets, recipes
from clipkd.runs.finished import FinishedRun, read_run
from clipkd.runs.record import METRICS, RESUME, Metrics, Score, how_to_finish, runs_below
from clipkd.spec.cells import Cell
from clipkd.spec.identities import AXES
from clipkd.tables.costs import MEGABYTE
from clipkd.tables.table import Column, Entry, Table, significant

MAIN = ("cell", "training")
"""Parts of a run's identity that are compared name by name."""
EXPLAINED = {
    "recipe": ("recipe",),
    "student": ("student",),
    "dataset": ("dataset",),
    "signal": ("teacher", "train_type", "recipe", "teacher_source", "dataset"),
    "thumbnails": ("dataset", "student"),
    "views": ("teacher", "train_type", "recipe", "teacher_source", "dataset"),
    "method": ("train_type",),
    "plugins": ("student", "train_type"),
    "several": ("teacher",),
    "few_labels": ("labels", "seed"),
    "no_labels": ("labels",),
    "kept_epoch": ("labels", "recipe"),
}
"""Part of a run's identity -> the names whose difference explains any difference in it; nothing does of others."""


def read(folder: Path) -> FinishedRun:
    """Read a run folder wherever it lies.

    Raises:
        InputError: it is not the folder of a finished run.
        DataError: one of its files is damaged; the message names file and field.
    """
    if not (folder / METRICS).is_file() or not (folder / MANIFEST).is_file():
        more = f"; {how_to_finish(folder)}" if (folder / RESUME).is_dir() else runs_below(folder)
        raise InputError(f"{folder} is not the folder of a finished run: it lacks {METRICS} or {MANIFEST}{more}")
    metrics = read_model(folder / METRICS, Metrics)
    known = metrics.cell.dataset in datasets.names()
    cell = Cell(**metrics.cell.model_dump(), epochs=metrics.epochs, source=None if known else str(folder))
    return read_run(replace(cell, labels="none") if "no_labels" in metrics.identity else cell, folder)


def settings(runs: Sequence[FinishedRun]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the settings that differ, name -> value of each run, and those of the main ones that do not."""
    parts = [one.identity for one in runs]
    names = {name: [part["cell"][name] for part in parts] for name in AXES}
    names["labels"] = list(map(labels_in, parts))
    names["teacher_source"] = [one.cell.shown_source for one in runs]
    if "none" in names["teacher_source"] and len(set(names["teacher_source"])) <= 2:
        del names["teacher_source"]  # the teacher says it
    names["recipe"] = list(map(recipes.name_in, names["recipe"]))
    main = names | flat("", [part["training"] for part in parts])
    differ = {name: values for name, values in main.items() if not same(values)}
    for part in dict.fromkeys(name for identity in parts for name in identity if name not in MAIN):
        if not any(name in differ for name in EXPLAINED.get(part, ())):
            found = flat(part, [identity.get(part, {}) for identity in parts])
            differ |= {name: values for name, values in found.items() if not same(values)}
    return differ, {name: values[0] for name, values in main.items() if same(values)}


def labels_in(identity: Identity) -> int | str:
    """Return how many labels a run saw: `all`, a number, or `none`."""
    few = identity.get("few_labels")
    return few["labels"] if few else "none" if "no_labels" in identity else "all"


def same(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def flat(before: str, parts: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the leaves of nested settings, name -> value of each run; None where a run has no such setting."""
    found: dict[str, list[Any]] = {}
    for index, part in enumerate(parts):
        for name, value in leaves(part):
            found.setdefault(f"{before} {name}".strip(), [None] * len(parts))[index] = value
    return found


def leaves(part: Any, before: str = "") -> list[tuple[str, Any]]:
    """Return the dotted names and values of nested settings."""
    if not isinstance(part, dict):
        return [(before, part)]
    return [leaf for name, child in part.items() for leaf in leaves(child, f"{before}.{name}" if before else name)]


def label(runs: Sequence[FinishedRun], index: int) -> str:
    """Return what tells a run from the others, in few words."""
    differ = settings(runs)[0]
    described = [in_words(name, values[index]) for name, values in differ.items()]
    return ", ".join(described[:3]) if described else str(runs[index].path)


def in_words(name: str, value: Any) -> str:
    """Return a setting in words; a name speaks for itself, a number does not."""
    return str(value) if isinstance(value, str) and len(value) < 40 else f"{name.replace('_', ' ')} {short(value)}"


def short(value: Any) -> str:
    """Return a value in at most 24 characters."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def tested(run: FinishedRun) -> tuple[Score, Score]:
    """Return the test scores of a run's last and selected epoch.

    Raises:
        InputError: it saw no labels.
    """
    last, selected = run.metrics.last.test, run.metrics.selected.test
    if last is None or selected is None:
        raise InputError(
            f"{run.path} was trained without labels and has no accuracy to compare: measure its embeddings with "
            "`clipkd evaluate RUN --dataset NAME --measures knn,probe`"
        )
    return last, selected


def table(runs: Sequence[FinishedRun]) -> Table:
    """Return the comparison: a row for each run."""
    scores = [tested(one) for one in runs]
    differ, equal = settings(runs)
    columns = [Column("Run", is_number=False)]
    columns += [Column(name.replace("_", " "), is_number=False) for name in differ]
    columns += [Column(name) for name in ("last top-1, %", "selected top-1, %", "selected top-5, %", "epoch")]
    columns += [Column(name) for name in ("s per epoch", "teacher passes", "weights, MB", "parameters")]
    made = Table("comparison", "Runs side by side", columns)
    best = max(chosen.top1 for _, chosen in scores)
    for index, one in enumerate(runs):
        run, cost = one.metrics, one.cost
        selected, (last, chosen) = run.selected, scores[index]
        made.rows.append(
            [
                Entry(str(index + 1)),
                *(Entry(short(values[index])) for values in differ.values()),
                Entry(f"{100 * last.top1:.2f}"),
                Entry(f"{100 * chosen.top1:.2f}", is_best=chosen.top1 == best),
                Entry(f"{100 * chosen.top5:.2f}"),
                Entry(f"{selected.epoch} of {run.epochs}"),
                Entry(significant(cost.median_seconds)),
                Entry(f"{cost.teacher.forward_passes:,}"),
                Entry(significant(cost.weights_bytes / MEGABYTE)),
                Entry(f"{run.student_parameters:,}"),
            ]
        )
        made.records.append(
            {
                "run": str(one.path),
                **{name: values[index] for name, values in differ.items()},
                "last_top1": last.top1,
                "selected_top1": chosen.top1,
                "selected_top5": chosen.top5,
                "selected_epoch": selected.epoch,
                "seconds_per_epoch": cost.median_seconds,
                "teacher_passes": cost.teacher.forward_passes,
                "weights_bytes": cost.weights_bytes,
                "student_parameters": run.student_parameters,
            }
        )
    made.notes = notes(runs, differ, equal)
    return made


def notes(runs: Sequence[FinishedRun], differ: dict[str, list[Any]], equal: dict[str, Any]) -> list[str]:
    """Return which run is which, what is equal, and what forbids a comparison."""
    lines = [f"{index}: {one.path}" for index, one in enumerate(runs, start=1)]
    if not differ:
        lines.append("Every setting is equal: these runs repeat one training.")
    lines.append(f"Equal in all: {', '.join(f'{name} {short(value)}' for name, value in equal.items())}.")
    if any(name == "dataset" or name.startswith("dataset ") for name in differ):
        lines.append("The datasets differ: these accuracies were not measured on the same images.")
    if not same([one.cell.recipe_spec.selection for one in runs]):
        lines.append("The recipes choose their epoch on different splits: compare the last epochs.")
    if not same([one.cost.device.detail for one in runs]):
        lines.append("The machines differ: seconds can't be compared.")
    if "seed" in differ:
        others = zip(*(map(str, values) for name, values in differ.items() if name != "seed"), strict=True)
        is_repeated = max(Counter(others).values(), default=len(runs)) > 1
        lines.append(
            "Each run is a row of its own: for means over seeds and their intervals see the table teacher-matters."
            if is_repeated
            else "One run per setting says nothing about the spread over seeds: see the table teacher-matters."
        )
    if "student" not in differ and not same([one.metrics.student_parameters for one in runs]):
        lines.append(
            "The student is the same: parameters and weights count its projection onto the teacher's vectors, too."
        )
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
