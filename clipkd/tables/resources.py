"""The paper's resource figure as a table: published values beside measured ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipkd.plugins import recipes
from clipkd.runs.record import Cost
from clipkd.tables.cost_rows import GIGABYTE, CostRow, cost_rows
from clipkd.tables.published import (
    FIGURE,
    HARDWARE,
    MEMORY_CLAIM,
    TIME_CLAIM,
    TRAIN_TYPES,
    Published,
)
from clipkd.tables.results import Results, dataset_title, headline, teacher_titles, where
from clipkd.tables.summary import Summary
from clipkd.tables.table import (
    NOTHING,
    Column,
    Entry,
    Table,
    significant,
    spread,
)

COLUMNS = [
    Column("", is_number=False),
    Column("Dataset", is_number=False),
    Column("Train type", is_number=False),
    Column("Student", is_number=False),
    Column("Teacher", is_number=False),
    Column("Recipe", is_number=False),
    Column("Memory, weights (GB)"),
    Column("Memory, peak (GB)"),
    Column("Accuracy (%)"),
    Column("Time per epoch (s)"),
    Column("Hardware", is_number=False),
]


def table(results: Results) -> Table:
    """Return the table: the figure's points, then the runs of the same train types."""
    made = Table("", "", COLUMNS)
    for point in FIGURE:
        made.rows.append(published_entries(point))
        made.records.append(published_record(point))
    rows = [row for row in cost_rows(results) if row.first.train_type in TRAIN_TYPES]
    titles = teacher_titles(dict.fromkeys(row.first.teacher for row in rows))
    for row in rows:
        kind, accuracy = measured_accuracy(results, row)
        made.rows.append(measured_entries(results, row, accuracy, titles[row.first.teacher]))
        made.records.append(measured_record(row, kind, accuracy))
    made.notes = [
        "published: read off the paper's resource figure (arXiv 2404.06170), ±0.004; memory is that of fp32 weights.",
        "measured: this grid's runs of the same train types, on the named hardware. Where dataset, student, epochs or "
        "hardware differ from the paper's, only ratios within one source can be compared.",
        "Accuracy: test top-1, at the validation-selected epoch where the recipe has one, else at the last; "
        "– for runs that only measure a live teacher's cost. Time per epoch: the training part, median over epochs. "
        "1 GB = 1,000,000,000 bytes.",
        f"Published claim: {MEMORY_CLAIM} × less memory and {TIME_CLAIM} × less time than the live teacher.",
        *measured_claims(rows, titles),
    ]
    return made


def published_entries(point: Published) -> list[Entry]:
    low, high = point.seconds
    seconds = f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
    names = ("published", NOTHING, point.train_type, point.student, "the paper's", "as released")
    numbers = (f"{point.memory_gb:.3f}", NOTHING, f"{point.accuracy * 100:.1f}", seconds)
    return [Entry(text) for text in (*names, *numbers, HARDWARE)]


def published_record(point: Published) -> dict[str, Any]:
    return {
        "source": "published",
        "train_type": point.train_type,
        "student": point.student,
        "weights_gb": point.memory_gb,
        "accuracy_percent": point.accuracy * 100,
        "seconds_per_epoch_low": point.seconds[0],
        "seconds_per_epoch_high": point.seconds[1],
        "hardware": HARDWARE,
    }


def measured_accuracy(results: Results, row: CostRow) -> tuple[str, Summary | None]:
    """Return the kind of accuracy that the recipe's rows show, and its summary; None for cost runs."""
    kind = headline(recipes.get(row.first.recipe).selection)
    return kind, None if row.first.is_cost_run else results.summary(row.cells, kind)


def measured_entries(results: Results, row: CostRow, accuracy: Summary | None, teacher: str) -> list[Entry]:
    first = row.first

    def marked(text: str) -> Entry:
        return Entry(text, is_incomplete=row.is_incomplete)

    return [
        *map(
            Entry,
            ("measured", dataset_title(first.dataset, results.config), f"{first.train_type}, {row.source} teacher"),
        ),
        *map(Entry, (first.student, teacher, first.recipe)),
        marked(significant(row.mean(lambda cost: cost.weights_bytes, GIGABYTE))),
        marked(significant(row.mean(lambda cost: cost.peak_memory_bytes, GIGABYTE))),
        marked(spread(accuracy, scale=100)),
        marked(significant(row.mean(lambda cost: cost.median_seconds))),
        Entry(row.devices or NOTHING),
    ]


def measured_record(row: CostRow, kind: str, accuracy: Summary | None) -> dict[str, Any]:
    first, seconds = row.first, row.mean(lambda cost: cost.median_seconds)
    return {
        "source": "measured",
        "dataset": first.dataset,
        "train_type": first.train_type,
        "student": first.student,
        "teacher": first.teacher,
        "recipe": first.recipe,
        "teacher_source": row.source,
        "weights_gb": row.mean(lambda cost: cost.weights_bytes, GIGABYTE),
        "peak_memory_gb": row.mean(lambda cost: cost.peak_memory_bytes, GIGABYTE),
        "accuracy_percent": accuracy and accuracy.mean * 100,
        "accuracy_epoch": kind if accuracy else None,
        "seconds_per_epoch_low": seconds,
        "seconds_per_epoch_high": seconds,
        "n": len(row.costs),
        "n_asked": len(row.cells),
        "hardware": row.devices,
    }


def measured_claims(rows: list[CostRow], titles: dict[str, str]) -> list[str]:
    """Return one sentence for each live teacher-KD that has an embed-KD of the same student beside it."""
    lines = []
    for live in rows:
        wanted = {axis: getattr(live.first, axis) for axis in ("dataset", "student", "teacher", "recipe")}
        same = [row for row in rows if row.first.train_type == "embed-KD" and where([row.first], **wanted)]
        if (
            live.source != "live"
            or live.first.train_type != "teacher-KD"
            or not same
            or not live.costs
            or not same[0].costs
        ):
            continue
        time, memory = (
            quotient(live, same[0], number)
            for number in (lambda cost: cost.median_seconds, lambda cost: cost.weights_bytes)
        )
        lines.append(
            f"Measured ({wanted['dataset']}, {wanted['student']}, {titles[live.first.teacher]}, "
            f"{wanted['recipe']}): embed-KD takes {significant(memory)} × less memory for weights and "
            f"{significant(time)} × less time per epoch than teacher-KD with the live teacher "
            f"(n = {len(live.costs)} live, {len(same[0].costs)} embed-KD)."
        )
    return lines


def quotient(live: CostRow, other: CostRow, number: Callable[[Cost], float]) -> float | None:
    """Return how many times more of something the live teacher's runs take."""
    more, less = live.mean(number), other.mean(number)
    return more / less if more is not None and less else None
