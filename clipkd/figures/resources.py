"""The paper's resource figure: published memory, accuracy and time above measured ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipkd import recipes
from clipkd.cells import NO_TEACHER
from clipkd.costs import GIGABYTE, CostRow, cost_rows
from clipkd.figures.style import figure, mark, rows_axis
from clipkd.published import FIGURE, HARDWARE, TRAIN_TYPES
from clipkd.results import Results, dataset_title, headline, teacher_title

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
    is_incomplete: bool = False


def draw(results: Results) -> Figure:
    """Return the figure: published points above, measured points below, one column a quantity."""
    published = [
        Point(f"{p.train_type}, {p.student}", p.memory_gb, 100 * p.accuracy, sum(p.seconds) / 2) for p in FIGURE
    ]
    rows = [row for row in main_rows(cost_rows(results)) if row.first.train_type in TRAIN_TYPES]
    measured = [point(results, row) for row in rows]
    height = 0.26 * (len(published) + len(measured)) + 2.5
    made = figure(10, height, "The paper's resource figure: published and measured")
    ratios = [len(published) + 1, max(len(measured), 1) + 1]
    grid = made.subplots(2, 3, squeeze=False, sharey="row", sharex="col", height_ratios=ratios)
    for line, points, colour in zip(grid, (published, measured), (PUBLISHED, MEASURED), strict=True):
        for axes, name in zip(line, PANELS, strict=True):
            draw_points(axes, points, name, colour)
        rows_axis(line[0], [one.label for one in points])
        line[0].set_ylim(len(points) - 0.4, -0.6)
    for column, name in enumerate(PANELS):
        limits(grid[0][column], [getattr(one, name) for one in published + measured], name)
        grid[1][column].set_xlabel(PANELS[name])
    devices = "; ".join(dict.fromkeys(row.devices for row in rows if row.costs))
    teachers = ", ".join(dict.fromkeys(teacher_title(row.first.teacher) for row in rows))
    grid[0][0].set_title(f"published (arXiv 2404.06170): {HARDWARE}", color=PUBLISHED)
    grid[1][0].set_title(
        f"measured: teacher {teachers}; {devices}" if rows else "measured: no such run", color=MEASURED
    )
    return made


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
    live = " live" if row.source == "live" else ""
    return Point(
        label=f"{dataset_title(first.dataset, results.config)}: {first.train_type}{live}, {first.student}, {first.recipe}",
        memory=row.mean("weights_bytes", GIGABYTE),
        accuracy=100 * accuracy.mean if accuracy else None,
        seconds=row.mean("seconds_per_epoch"),
        deviation=100 * accuracy.deviation if accuracy and accuracy.deviation is not None else None,
        is_incomplete=row.is_incomplete,
    )


def draw_points(axes: Axes, points: list[Point], name: str, colour: str) -> None:
    """Draw one quantity of the points, each with its number beside it."""
    for position, one in enumerate(points):
        value = getattr(one, name)
        if value is None:
            text = mark("–", one.is_incomplete)
            axes.annotate(text, (0.02, position), xycoords=("axes fraction", "data"), va="center", fontsize=8)
            continue
        axes.plot(value, position, "o", ms=5.5, color=colour)
        if name == "accuracy" and one.deviation:
            axes.errorbar(value, position, xerr=one.deviation, color=colour, lw=1, capsize=2)
        text = f"{value:.1f}" if name == "accuracy" else f"{value:.3g}"
        place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(mark(text, one.is_incomplete), (value, position), **place)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def limits(axes: Axes, found: list[float | None], name: str) -> None:
    """Set a column's horizontal range so that the numbers beside the points fit."""
    if name == "accuracy":
        axes.set_xlim(0, 120)
        axes.set_xticks(range(0, 101, 25))
        return
    numbers = [value for value in found if value]
    low, high = np.log10(min(numbers)), np.log10(max(numbers))
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - 0.1 * (high - low) - 0.1), 10 ** (high + 0.3 * (high - low) + 0.1))
