"""The paper's resource figure: published memory, accuracy and time above measured ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipkd.report.figures.style import GREY, error_bar, new_figure, plain_rows, rows_axis
from clipkd.tables.costs import GIGABYTE, LIVE, costs
from clipkd.tables.grouping import rows_of, with_labels
from clipkd.tables.published import FIGURE, HARDWARE, TRAIN_TYPES
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.table import significant
from clipkd.tables.terms import mark

PUBLISHED, MEASURED = "#D55E00", "#0072B2"
PANELS = {"memory": "memory, fp32 weights (GB)", "accuracy": "test top-1 (%)", "seconds": "time per epoch (s)"}


@dataclass(frozen=True)
class Point:
    """One line of the figure; None where there is no number."""

    label: str
    memory: float | None
    accuracy: float | None
    seconds: float | None
    deviation: float | None = None
    """Of the accuracy."""
    reading: float = 0.0
    """The time was read off as `seconds` minus this to plus this."""
    is_incomplete: bool = False


def draw(results: Results) -> Figure:
    """Return the figure: published points above, measured points below, one column a quantity."""
    published = [
        Point(
            label=f"{p.train_type}, {p.student}",
            memory=p.memory_gb,
            accuracy=100 * p.accuracy,
            seconds=sum(p.seconds) / 2,
            reading=(p.seconds[1] - p.seconds[0]) / 2,
        )
        for p in FIGURE
    ]
    rows = main_rows(costs(results))
    rows = rows[rows.train_type.isin(TRAIN_TYPES)]
    measured = [point(results, row) for row in rows_of(rows)]
    height = 0.26 * (len(published) + len(measured)) + 2.5
    figure = new_figure(10, height, "The paper's resource figure: published and measured")
    ratios = [len(published) + 1, max(len(measured), 1) + 1]
    grid = figure.subplots(2, 3, squeeze=False, sharey="row", sharex="col", height_ratios=ratios)
    for line, points, colour in zip(grid, (published, measured), (PUBLISHED, MEASURED), strict=True):
        for axes, name in zip(line, PANELS, strict=True):
            draw_points(axes, points, name, colour)
        rows_axis(line[0], [one.label for one in points])
    for column, name in enumerate(PANELS):
        limits(grid[0][column], [getattr(one, name) for one in published + measured], name)
        grid[1][column].set_xlabel(PANELS[name])
    devices = "; ".join(rows.device[rows.n > 0].unique())
    teachers = ", ".join(teacher_titles(rows.teacher.unique()).values())
    grid[0][0].set_title(f"published (arXiv 2404.06170): {HARDWARE}", color=PUBLISHED)
    grid[1][0].set_title(
        f"measured: teacher {teachers}; {devices}" if len(rows) else "measured: no such run", color=MEASURED
    )
    return figure


def main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each dataset's rows with one teacher: the one that also ran live, else the first."""
    taught = rows[rows.has_teacher].sort_values("teacher_source", key=lambda source: source != "live", kind="stable")
    chosen = taught.drop_duplicates("dataset").set_index("dataset").teacher
    return rows[rows.teacher == rows.dataset.map(chosen)]


def point(results: Results, row: Any) -> Point:
    """Return a measured line; runs that only measure cost have no accuracy."""
    live = f" {row.teacher_source}" if row.teacher_source in LIVE else ""
    has_accuracy = row.top1_n > 0 and not row.is_cost_run
    return Point(
        label=", ".join(
            (dataset_title(row.dataset, results.config), f"{with_labels(row)}{live}", row.student, row.recipe)
        ),
        memory=row.weights_bytes_mean / GIGABYTE if row.n else None,
        accuracy=100 * row.top1_mean if has_accuracy else None,
        seconds=row.seconds_per_epoch_mean if row.n else None,
        deviation=100 * row.top1_deviation if has_accuracy and row.top1_n > 1 else None,
        is_incomplete=row.is_incomplete,
    )


def draw_points(axes: Axes, points: list[Point], name: str, colour: str) -> None:
    """Draw one quantity of the points, each with its number beside it."""
    for position, one in enumerate(points):
        value = getattr(one, name)
        if value is None:
            text = mark("missing" if one.is_incomplete else "not measured: cost run", one.is_incomplete)
            axes.annotate(
                text, (0.02, position), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=GREY
            )
            continue
        axes.plot(value, position, "o", ms=5.5, color=colour)
        width = {"accuracy": one.deviation, "seconds": one.reading}.get(name) or 0.0
        error_bar(axes, value, position, width or None, colour)
        text = mark(number(one, name, value), one.is_incomplete)
        style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(text, (value + width, position), xytext=(7, 0), **style)
    plain_rows(axes)


def number(one: Point, name: str, value: float) -> str:
    """Return a point's number as it is printed."""
    if name == "accuracy":
        return f"{value:.1f}" + (f" ± {one.deviation:.1f}" if one.deviation is not None else "")
    if name == "seconds" and one.reading:
        return f"{value - one.reading:.0f} to {value + one.reading:.0f}"
    text = significant(value, 4 if name == "memory" and value >= 1 else 3)
    return text.rstrip("0").rstrip(".") if "." in text else text


def limits(axes: Axes, found: list[float | None], name: str) -> None:
    """Set a column's horizontal range so that the numbers beside the points fit."""
    if name == "accuracy":
        axes.set_xlim(0, 140)
        axes.set_xticks(range(0, 101, 25))
        return
    numbers = [value for value in found if value]
    low, high = np.log10(min(numbers)), np.log10(max(numbers))
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - 0.1 * (high - low) - 0.1), 10 ** (high + 0.3 * (high - low) + 0.1))
