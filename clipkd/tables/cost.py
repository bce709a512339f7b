"""Cost table: time, teacher passes, disk and memory, per train type, with a live and a cached teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipkd.runs.record import Cost
from clipkd.tables.cost_rows import CostRow, cached_of, cost_rows, slower
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.summary import Summary
from clipkd.tables.table import (
    NOTHING,
    Column,
    Entry,
    Table,
    attribute,
    significant,
)

COLUMNS = [
    *(
        Column(title, is_number=False)
        for title in ("Dataset", "Student", "Teacher", "Train type", "Recipe", "Teacher source")
    ),
    Column("s per epoch", "Training"),
    Column("live / cached", "Training"),
    Column("images/s", "Training"),
    Column("teacher passes", "Training"),
    Column("s", "Extraction, once"),
    Column("teacher passes", "Extraction, once"),
    Column("disk, MB", "Extraction, once"),
    Column("weights, MB", "Memory"),
    Column("peak, MB", "Memory"),
    Column("Device", is_number=False),
]
MEGABYTE = 1e6


def table(results: Results) -> Table:
    """Return the cost table."""
    rows = cost_rows(results)
    made = Table("", "", COLUMNS)
    titles = teacher_titles(dict.fromkeys(row.first.teacher for row in rows))
    for row in rows:
        made.rows.append(
            entries(row, rows, dataset_title(row.first.dataset, results.config), titles[row.first.teacher])
        )
        made.records.append(record(row, rows))
    peaks = sorted({cost.peak_memory_of for row in rows for cost in row.costs})
    made.notes = [
        "s per epoch: the training part, median over a run's epochs; mean ± sample standard deviation over seeds (n).",
        "live / cached: seconds per epoch with the teacher run on every batch, over those with its stored embeddings.",
        "teacher passes: images through the teacher; in training those of one whole run (its epochs: see the CSV).",
        "Extraction is done once and shared by all runs that read the same embeddings; disk counts those embeddings.",
        "weights: student and live teacher at 4 bytes a parameter, the paper's measure of memory. 1 MB = 1e6 bytes.",
        f"peak: largest memory of the {' or the '.join(peaks) or 'process'} during the run.",
    ]
    return made


def entries(row: CostRow, rows: list[CostRow], dataset: str, teacher: str) -> list[Entry]:
    """Return the entries of one kind of run."""
    first, extraction = row.first, row.extraction
    ratio, cached = slower(row, rows), cached_of(row, rows)
    is_ratio_incomplete = cached is not None and (row.is_incomplete or cached.is_incomplete)
    lacks_extraction = extraction is None and bool(row.costs) and row.source == "cached"

    def mean(number: Callable[[Cost], float], unit: float = 1.0) -> Entry:
        return Entry(significant(row.mean(number, unit)), is_incomplete=row.is_incomplete)

    def once(value: float | None) -> Entry:
        return Entry(significant(value), is_incomplete=lacks_extraction)

    return [
        *map(Entry, (dataset, first.student, teacher, first.train_type, first.recipe, row.source)),
        Entry(seconds_text(row.seconds), is_incomplete=row.is_incomplete),
        Entry(f"{significant(ratio)} ×" if ratio else NOTHING, is_incomplete=is_ratio_incomplete),
        mean(lambda cost: cost.images_per_second),
        Entry(count(row.mean(lambda cost: cost.teacher.forward_passes)), is_incomplete=row.is_incomplete),
        once(attribute(extraction, "seconds")),
        Entry(count(attribute(extraction, "forward_passes")), is_incomplete=lacks_extraction),
        once(extraction.disk_bytes / MEGABYTE if extraction else None),
        mean(lambda cost: cost.weights_bytes, MEGABYTE),
        mean(lambda cost: cost.peak_memory_bytes, MEGABYTE),
        Entry(row.devices or NOTHING),
    ]


def count(value: float | None) -> str:
    """Return a count in full; one decimal where it is the mean of counts that differ."""
    if value is None:
        return NOTHING
    return f"{value:,.{0 if value == int(value) else 1}f}"


def seconds_text(seconds: Summary | None) -> str:
    """Return seconds per epoch with mean and deviation at the same number of decimals."""
    if seconds is None:
        return NOTHING
    decimals = 3 if seconds.mean < 1 else 2 if seconds.mean < 100 else 1
    deviation = "" if seconds.deviation is None else f" ± {seconds.deviation:.{decimals}f}"
    return f"{seconds.mean:.{decimals}f}{deviation} ({seconds.n})"


def record(row: CostRow, rows: list[CostRow]) -> dict[str, Any]:
    """Return the CSV record of one kind of run."""

    first, seconds, extraction = row.first, row.seconds, row.extraction
    return {
        "dataset": first.dataset,
        "student": first.student,
        "teacher": first.teacher,
        "train_type": first.train_type,
        "recipe": first.recipe,
        "teacher_source": row.source,
        "n": len(row.costs),
        "n_asked": len(row.cells),
        "epochs": first.epochs,
        "seconds_per_epoch_mean": attribute(seconds, "mean"),
        "seconds_per_epoch_deviation": attribute(seconds, "deviation"),
        "live_to_cached": slower(row, rows),
        "images_per_second": row.mean(lambda cost: cost.images_per_second),
        "images_per_epoch": row.mean(lambda cost: cost.images_per_epoch),
        "teacher_passes_in_run": row.mean(lambda cost: cost.teacher.forward_passes),
        "extraction_seconds": attribute(extraction, "seconds"),
        "extraction_passes": attribute(extraction, "forward_passes"),
        "embeddings_disk_bytes": attribute(extraction, "disk_bytes"),
        "weights_bytes": row.mean(lambda cost: cost.weights_bytes),
        "peak_memory_bytes": row.mean(lambda cost: cost.peak_memory_bytes),
        "peak_memory_of": "; ".join(sorted({cost.peak_memory_of for cost in row.costs})),
        "device": row.devices,
        "extraction_device": attribute(extraction, "device"),
    }
