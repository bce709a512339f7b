"""Prototypes table: the classifier beside the nearest prototype, and a CLIP teacher's own zero-shot."""

from __future__ import annotations

from typing import Any

from clipkd.plugins import recipes
from clipkd.spec.cells import Cell
from clipkd.tables.results import (
    Results,
    accuracy_cells,
    dataset_title,
    headline,
    teacher_names,
    teacher_titles,
)
from clipkd.tables.summary import Summary, summarise
from clipkd.tables.table import (
    NOTHING,
    Column,
    Entry,
    Table,
    attribute,
    spread,
)

COLUMNS = [
    *(Column(title, is_number=False) for title in ("Recipe", "Dataset", "Student", "Teacher", "Train type")),
    Column("classifier, %", "Student"),
    Column("nearest prototype, %", "Student"),
    Column("zero-shot, %", "Teacher"),
]
PERCENT = 100.0


def table(results: Results) -> Table:
    """Return the table: one row for each kind of run that has class prototypes."""
    made = Table("", "", COLUMNS)
    cells = [cell for cell in accuracy_cells(results.cells) if cell.method.signal == "prototypes"]
    titles = teacher_titles(teacher_names(cells))
    groups: dict[tuple[str, str, str, str, str], list[Cell]] = {}
    for cell in cells:
        key = (cell.recipe, cell.dataset, cell.student, cell.teacher, cell.train_type)
        groups.setdefault(key, []).append(cell)
    for key, members in groups.items():
        recipe, dataset, student, teacher, train_type = key
        kind = headline(recipes.get(recipe).selection)
        classifier = results.summary(members, kind)
        nearest = summarise(share for cell in members if (share := nearest_of(results, cell, kind)) is not None)
        zero_shot = next((share for cell in members if (share := zero_shot_of(results, cell)) is not None), None)
        incomplete = results.incomplete(members)
        words = (recipe, dataset_title(dataset, results.config), student, titles[teacher], train_type)
        made.rows.append(
            [
                *map(Entry, words),
                Entry(spread(classifier, scale=PERCENT), is_incomplete=incomplete),
                Entry(spread(nearest, scale=PERCENT), is_incomplete=incomplete),
                Entry(NOTHING if zero_shot is None else f"{zero_shot * PERCENT:.2f}"),
            ]
        )
        made.records.append(record(key, kind, classifier, nearest, zero_shot, len(members)))
    made.notes = [
        "Test top-1: mean ± sample standard deviation over seeds (n); recipe reference at its last epoch, recipe "
        "corrected at the epoch that validation chose.",
        "nearest prototype: the class whose prototype is most similar to the student's embedding, through the "
        "projection that was trained; the classifier takes no part.",
        f"zero-shot: the teacher's own images against the names of the classes, without training; {NOTHING} where the "
        "teacher is no text tower, or its vision tower (MODEL:pooler) is not in this grid.",
    ]
    return made


def nearest_of(results: Results, cell: Cell, kind: str) -> float | None:
    """Return the top-1 (share of 1) by the nearest prototype, None where the run is missing or measured none."""
    nearest = results.runs[cell].metrics.chosen(kind).nearest_prototype if cell in results.runs else None
    return nearest.top1 if nearest else None


def zero_shot_of(results: Results, cell: Cell) -> float | None:
    found = results.runs[cell].metrics.zero_shot if cell in results.runs else None
    return found.top1 if found else None


def record(
    key: tuple[str, ...], kind: str, classifier: Summary | None, nearest: Summary | None, zero: float | None, asked: int
) -> dict[str, Any]:
    """Return one row at full precision."""
    axes = ("recipe", "dataset", "student", "teacher", "train_type")
    numbers: dict[str, Any] = {"epoch": kind, "n": classifier.n if classifier else 0, "n_asked": asked}
    for name, summary in (("classifier", classifier), ("nearest_prototype", nearest)):
        for part in ("mean", "deviation"):
            share = attribute(summary, part)
            numbers[f"{name}_{part}_percent"] = None if share is None else share * PERCENT
    numbers["zero_shot_percent"] = None if zero is None else zero * PERCENT
    return dict(zip(axes, key, strict=True)) | numbers
