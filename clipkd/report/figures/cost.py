"""Cost: seconds per epoch and teacher passes, with a live and with a cached teacher."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clipkd.report.figures.style import GREY, error_bar, legend, new_figure, plain_rows, rows_axis
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.costs import costs
from clipkd.tables.grouping import groups, rows_of, with_labels
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.table import is_missing
from clipkd.tables.terms import mark

COLOURS = {"none": GREY, "cached": "#0072B2", "live": "#D55E00", "lazy": "#E69F00", "replayed": "#56B4E9"}
LABELS = {
    "none": "no teacher",
    "cached": "cached: teacher passes once, shared by all students",
    "live": "live teacher",
    "lazy": "lazy: teacher once per view, in training",
    "replayed": "replayed: teacher passes once, for stored random views",
}


def draw(results: Results) -> Figure:
    """Return the figure: a line of panels for each dataset."""
    rows = costs(results)
    titles = teacher_titles(rows.teacher.unique())
    chosen = {dataset: main_rows(here) for dataset, here in groups(rows, "dataset")}
    heights = [len(group) for group in chosen.values()]
    figure = new_figure(10, 0.24 * sum(heights) + 0.85 * len(heights) + 1.2, "Cost of training one student")
    grid = figure.subplots(
        len(chosen), 2, squeeze=False, sharey="row", height_ratios=[height + 1.5 for height in heights]
    )
    for (time, passes), (dataset, group) in zip(grid, chosen.items(), strict=True):
        example = group.sort_values("has_teacher", ascending=False, kind="stable").iloc[0]
        names = (dataset_title(dataset, results.config), example.student, titles[example.teacher])
        time.set_title(f"{', '.join(names)}, recipe {example.recipe}")
        passes.set_title("; ".join(group.device[group.n > 0].unique()), color=GREY, fontsize=8)
        draw_seconds(time, group)
        draw_passes(passes, group)
        rows_axis(time, [label(row) for row in rows_of(group)])
    grid[-1][0].set_xlabel("seconds per epoch, training part (in brackets: × cached)")
    grid[-1][1].set_xlabel("images through the teacher for one student, all epochs")
    sources = {source for group in chosen.values() for source in group.teacher_source}
    handles = [Patch(color=COLOURS[source], label=label) for source, label in LABELS.items() if source in sources]
    legend(figure, handles, "mean over seeds ± sample standard deviation")
    return figure


def label(row: Any) -> str:
    return with_labels(row) + ("" if row.teacher_source in {"none", "cached"} else f", {row.teacher_source}")


def main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a dataset's rows of one student, teacher and recipe: those that also ran live, else the first."""
    live, taught = rows[rows.teacher_source == "live"], rows[rows.has_teacher]
    main = next(group.iloc[0] for group in (live, taught, rows) if len(group))
    is_alike = (rows.student == main.student) & (rows.recipe == main.recipe)
    chosen: pd.DataFrame = rows[is_alike & rows.teacher.isin([main.teacher, NO_TEACHER])]
    return chosen


def draw_seconds(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw seconds per epoch."""
    most = rows.seconds_per_epoch_mean.max() if rows.n.any() else 1.0
    for position, row in enumerate(rows_of(rows)):
        if not row.n:
            axes.text(0, position, mark(" missing", True), va="center", fontsize=8)
            continue
        seconds, deviation = row.seconds_per_epoch_mean, row.seconds_per_epoch_deviation if row.n > 1 else 0.0
        axes.barh(position, seconds, height=0.75, color=COLOURS[row.teacher_source])
        error_bar(axes, seconds, position, deviation or None)
        ratio = "" if is_missing(row.live_to_cached) else f" ({row.live_to_cached:.2g} ×)"
        text = mark(f"{seconds:.3g} s{ratio}", row.is_incomplete)
        axes.text(seconds + deviation + 0.015 * most, position, text, va="center", fontsize=8)
    axes.set_xlim(0, 1.35 * most)


def passes_of(row: Any) -> float | None:
    """Return the images through the teacher for one student in all its epochs; None where it is not known.

    A live run may have fewer epochs than the cached one; its passes are scaled up to those.
    """
    if not row.has_teacher:
        return 0.0
    if row.teacher_source in {"cached", "replayed"}:
        return None if is_missing(row.extraction_passes) else float(row.extraction_passes)
    return None if is_missing(row.teacher_passes_mean) else row.teacher_passes_mean / row.epochs * epochs_of(row)


def epochs_of(row: Any) -> int:
    """Return the epochs of the students that count, where a live run has fewer."""
    return row.epochs if is_missing(row.cached_epochs) else int(row.cached_epochs)


def draw_passes(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw teacher passes, on a logarithmic axis."""
    passes = [passes_of(row) for row in rows_of(rows)]
    most = max((value for value in passes if value), default=1.0)
    least = 1.0
    axes.set_xscale("log")
    axes.set_xlim(least, max(most * (most / least) ** 0.45, 10 * least))
    for position, (row, value) in enumerate(zip(rows_of(rows), passes, strict=True)):
        if value:
            axes.barh(position, value - least, left=least, height=0.75, color=COLOURS[row.teacher_source])
        text = mark("missing", True) if value is None else f"{value:,.0f}"
        if row.teacher_source == "live" and value is not None:
            text = mark(f"{text} in {epochs_of(row)} epochs", row.is_incomplete)
        axes.text(max(value or 0, least) * (most / least) ** 0.015, position, text, va="center", fontsize=8)
    plain_rows(axes)
