"""Cost table: time, teacher passes, disk and memory, per train type, with a live and a cached teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipkd.tables.costs import LIVE, MEGABYTE, STACKED, costs, side_by_side
from clipkd.tables.fields import place_fields
from clipkd.tables.grouping import rows_of
from clipkd.tables.results import Results, teacher_titles
from clipkd.tables.settings import chosen_notes
from clipkd.tables.table import (
    NOTHING,
    Column,
    Entry,
    Field,
    Table,
    count,
    filled,
    is_missing,
    marked,
    significant,
    spread,
    words,
)


def table(results: Results) -> Table:
    """Return the cost table."""
    rows = costs(results)
    titles = teacher_titles(rows.teacher.unique())
    is_stacked = bool((rows.most_side_by_side > 1).any())
    fields = [
        *place_fields(results, titles),
        words("train_type", "Train type"),
        words("recipe", "Recipe"),
        words("teacher_source", "Teacher source"),
        *map(Field, ("n", "n_asked", "epochs", "seconds_per_epoch_mean", "seconds_per_epoch_deviation")),
        Field(column=Column("s per epoch", "Training"), entry=lambda row: marked(row, seconds_text(row))),
        Field(
            "side_by_side",
            Column("students at once", "Training") if is_stacked else None,
            lambda row: Entry(side_by_side(row) or NOTHING),
            side_by_side,
        ),
        Field("live_to_cached", Column("live / cached", "Training"), ratio),
        over_seeds("images_per_second", "images/s", "Training"),
        Field("images_per_epoch", value=lambda row: row.images_per_epoch_mean),
        Field(
            "teacher_passes_in_run",
            Column("teacher passes", "Training"),
            lambda row: marked(row, count(row.teacher_passes_mean)),
            lambda row: row.teacher_passes_mean,
        ),
        once("extraction_seconds", "s", lambda row: significant(row.extraction_seconds)),
        once("extraction_passes", "teacher passes", lambda row: count(row.extraction_passes)),
        once("embeddings_disk_bytes", "disk, MB", lambda row: significant(row.embeddings_disk_bytes / MEGABYTE)),
        over_seeds("weights_bytes", "weights, MB", "Memory", MEGABYTE),
        over_seeds("peak_memory_bytes", "peak, MB", "Memory", MEGABYTE),
        Field("peak_memory_of"),
        words("device", "Device", lambda row: row.device or NOTHING),
        Field("extraction_device"),
    ]
    made = filled(fields, rows_of(rows))
    has_several = any(cell.teacher_of_seed != cell.teacher for cell in results.cells)
    peaks = sorted(results.frame.peak_memory_of.dropna().unique())
    made.notes = [
        *chosen_notes(results.shown),
        "s per epoch: training without evaluation, median over a run's epochs; mean ± sample standard deviation over "
        "seeds (n).",
        *[STACKED] * is_stacked,
        "live / cached: seconds per epoch with the teacher run on every batch, over those with stored embeddings; of a "
        "sweep only where both are of the same setting"
        f"{', and only where as many students were computed at once' if is_stacked else ''}.",
        "teacher passes: images through the teacher; in training, of one whole run (for its epochs see the CSV).",
        "Extraction happens once and is shared by all runs that read the same embeddings; disk is the size of these.",
        *["Where each seed has a teacher of its own, extraction is that of the first seed's."] * has_several,
        "weights: student and live teacher at 4 bytes per parameter, the paper's measure of memory. 1 MB = 1e6 bytes.",
        f"peak: largest memory of the {' or the '.join(peaks) or 'process'} during the run.",
    ]
    return made


def over_seeds(name: str, title: str, group: str, unit: float = 1.0) -> Field:
    """Return the field of a mean over seeds; in the CSV in its own unit."""
    return Field(
        name,
        Column(title, group),
        lambda row: marked(row, significant(getattr(row, f"{name}_mean") / unit)),
        lambda row: getattr(row, f"{name}_mean"),
    )


def once(name: str, title: str, text: Callable[[Any], str]) -> Field:
    """Return the field of something that the extraction cost."""

    def entry(row: Any) -> Entry:
        # A live teacher's class scores too come of a head that stands on stored embeddings.
        rests_on = row.signal == "scores" or (row.signal != "nothing" and row.teacher_source not in LIVE)
        return Entry(text(row), is_incomplete=rests_on and is_missing(row.extraction_seconds) and row.n > 0)

    return Field(name, Column(title, "Extraction, once"), entry)


def ratio(row: Any) -> Entry:
    """Return how many times longer an epoch takes with the live teacher than with the cached one."""
    rests_on = not is_missing(row.cached_is_incomplete)
    text = NOTHING if is_missing(row.live_to_cached) else f"{significant(row.live_to_cached)} ×"
    return Entry(text, is_incomplete=rests_on and bool(row.is_incomplete or row.cached_is_incomplete))


def seconds_text(row: Any) -> str:
    """Return seconds per epoch with mean and deviation at the same number of decimals."""
    seconds = row.seconds_per_epoch_mean
    digits = 3 if seconds < 1 else 2 if seconds < 100 else 1
    return spread(seconds, row.seconds_per_epoch_deviation, row.n, digits=digits)
