"""The paper's resource figure as a table: published values beside measured ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipkd.tables.costs import GIGABYTE, STACKED, costs, side_by_side
from clipkd.tables.grouping import rows_of, with_labels
from clipkd.tables.published import FIGURE, HARDWARE, MEMORY_CLAIM, TIME_CLAIM, TRAIN_TYPES, Published
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.table import NOTHING, Column, Entry, Field, Table, filled, marked, significant, spread, words

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = [
    *(Field("source", value=lambda point: "published"), Field("train_type"), Field("student")),
    Field("weights_gb", value=lambda point: point.memory_gb),
    Field("accuracy_percent", value=lambda point: point.accuracy * 100),
    Field("seconds_per_epoch_low", value=lambda point: point.seconds[0]),
    Field("seconds_per_epoch_high", value=lambda point: point.seconds[1]),
    Field("hardware", value=lambda point: HARDWARE),
]


def table(results: Results) -> Table:
    """Return the table: the figure's points, then the runs of the same train types."""
    rows = costs(results)
    rows = rows[rows.train_type.isin(TRAIN_TYPES)]
    titles = teacher_titles(rows.teacher.unique())
    measured = [
        words("source", "", lambda row: "measured", lambda row: "measured"),
        words("dataset", "Dataset", lambda row: dataset_title(row.dataset, results.config)),
        words("train_type", "Train type", lambda row: f"{with_labels(row)}, {row.teacher_source} teacher"),
        words("student", "Student"),
        words("teacher", "Teacher", lambda row: titles[row.teacher]),
        words("recipe", "Recipe"),
        Field("teacher_source"),
        gigabytes("weights_gb", "Memory, weights (GB)", "weights_bytes"),
        gigabytes("peak_memory_gb", "Memory, peak (GB)", "peak_memory_bytes"),
        Field("accuracy_percent", Column("Accuracy (%)"), accuracy, lambda row: row.top1_mean * 100),
        Field("accuracy_epoch", value=lambda row: row.epoch if row.top1_n else None),
        Field("seconds_per_epoch_low", Column("Time per epoch (s)"), seconds, lambda row: row.seconds_per_epoch_mean),
        Field("seconds_per_epoch_high", value=lambda row: row.seconds_per_epoch_mean),
        Field("side_by_side", value=side_by_side),
        *(Field("n"), Field("n_asked")),
        words("hardware", "Hardware", lambda row: row.device or NOTHING, lambda row: row.device),
    ]
    # Runs that only measure a live teacher's cost have no place among accuracies.
    rows = rows.assign(top1_mean=rows.top1_mean.mask(rows.is_cost_run), top1_n=rows.top1_n.mask(rows.is_cost_run, 0))
    made = filled(measured, rows_of(rows))
    published = filled(PUBLISHED, FIGURE)
    made.rows = [*map(published_entries, FIGURE), *made.rows]
    made.records = [*published.records, *made.records]
    made.notes = [
        "published: read off the paper's resource figure (arXiv 2404.06170), ±0.004; memory is that of fp32 weights.",
        "measured: this grid's runs of the same train types, on the named hardware. Where dataset, student, epochs or "
        "hardware differ from the paper's, only ratios within one source can be compared.",
        "Accuracy: test top-1, at the epoch that comparisons use (validation-selected or last); – for runs that only "
        "measure a live teacher's cost. Time per epoch: the training part, median over epochs. "
        "1 GB = 1,000,000,000 bytes.",
        *[STACKED] * bool((rows.most_side_by_side > 1).any()),
        f"Published claim: {MEMORY_CLAIM} × less memory and {TIME_CLAIM} × less time than the live teacher.",
        *claims(rows, titles),
    ]
    return made


def gigabytes(name: str, title: str, number: str) -> Field:
    """Return the field of a mean number of bytes."""
    return Field(
        name,
        Column(title),
        lambda row: marked(row, significant(getattr(row, f"{number}_mean") / GIGABYTE)),
        lambda row: getattr(row, f"{number}_mean") / GIGABYTE,
    )


def accuracy(row: Any) -> Entry:
    return marked(row, spread(row.top1_mean, row.top1_deviation, row.top1_n, scale=100))


def seconds(row: Any) -> Entry:
    return marked(row, significant(row.seconds_per_epoch_mean))


def published_entries(point: Published) -> list[Entry]:
    """Return the row of a point of the paper's figure."""
    low, high = point.seconds
    seconds = f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
    names = ("published", NOTHING, point.train_type, point.student, "the paper's", "as released")
    numbers = (f"{point.memory_gb:.3f}", NOTHING, f"{point.accuracy * 100:.1f}", seconds)
    return [Entry(text) for text in (*names, *numbers, HARDWARE)]


def claims(rows: pd.DataFrame, titles: dict[str, str]) -> list[str]:
    """Return one sentence for each live teacher-KD that has an embed-KD of the same student beside it."""
    axes = ["dataset", "student", "labels", "teacher", "recipe"]
    live = rows[(rows.train_type == "teacher-KD") & (rows.teacher_source == "live") & (rows.n > 0)]
    embed = rows[(rows.train_type == "embed-KD") & (rows.n > 0)].drop_duplicates(axes)
    both = live.merge(embed, on=axes, suffixes=("", "_embed"))
    return [
        f"Measured ({row.dataset}, {row.student}, {titles[row.teacher]}, {row.recipe}): embed-KD takes "
        f"{significant(row.weights_bytes_mean / row.weights_bytes_mean_embed)} × less memory for weights"
        f"{less_time(row)} than teacher-KD with the live teacher (n = {row.n} live, {row.n_embed} embed-KD)."
        for row in rows_of(both)
    ]


def less_time(row: Any) -> str:
    """Return how many times less time embed-KD takes, in words; "" where other numbers of students ran at once."""
    ends = ("least_side_by_side", "most_side_by_side")
    if any(getattr(row, end) != getattr(row, f"{end}_embed") for end in ends):
        return ""
    return f" and {significant(row.seconds_per_epoch_mean / row.seconds_per_epoch_mean_embed)} × less time per epoch"
