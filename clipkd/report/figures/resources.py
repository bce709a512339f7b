"""The paper's resource figure: published memory, accuracy and time above measured ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipkd.plugins import recipes
from clipkd.report.figures.style import GREY, error_bar, mark, new_figure, plain_rows, rows_axis
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.cost_rows import GIGABYTE, CostRow, cost_rows
from clipkd.tables.published import FIGURE, HARDWARE, TRAIN_TYPES
from clipkd.tables.results import Results, dataset_title, headline, teacher_title
from clipkd.tables.table import significant

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
    rows = [row for row in main_rows(cost_rows(results)) if row.first.train_type in TRAIN_TYPES]
    measured = [point(results, row) for row in rows]
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
    devices = "; ".join(dict.fromkeys(row.devices for row in rows if row.costs))
    teachers = ", ".join(dict.fromkeys(teacher_title(row.first.teacher) for row in rows))
    grid[0][0].set_title(f"published (arXiv 2404.06170): {HARDWARE}", color=PUBLISHED)
    grid[1][0].set_title(
        f"measured: teacher {teachers}; {devices}" if rows else "measured: no such run", color=MEASURED
    )
    return figure


def main_rows(rows: list[CostRow]) -> list[CostRow]:
    """Return each dataset's rows with one teacher: the one that also ran live, else the first."""
    chosen: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row.source != "live"):
        if row.first.teacher != NO_TEACHER:
            chosen.setdefault(row.first.dataset, row.first.teacher)
    return [row for row in rows if row.first.teacher == chosen.get(row.first.dataset)]


def point(results: Results, row: CostRow) -> Point:
    """Return a measured line; runs that only measure cost have no accuracy."""
    first = row.first
    kind = headline(recipes.get(first.recipe).selection)
    accuracy = None if first.is_cost_run else results.summary(row.cells, kind)
    title = dataset_title(first.dataset, results.config)
    live = f" {row.source}" if row.source in {"live", "lazy"} else ""
    return Point(
        label=", ".join((title, f"{first.train_type}{live}", first.student, first.recipe)),
        memory=row.mean(lambda cost: cost.weights_bytes, GIGABYTE),
        accuracy=100 * accuracy.mean if accuracy else None,
        seconds=row.mean(lambda cost: cost.median_seconds),
        deviation=100 * accuracy.deviation if accuracy and accuracy.deviation is not None else None,
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
