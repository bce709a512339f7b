"""Accuracy by train type: bars over teachers, error bars over seeds, the chance level."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clipkd.report.figures.style import (
    GREY,
    error_bar,
    legend,
    new_figure,
    rows_axis,
    teacher_colours,
)
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.accuracy import accuracy, train_types_of
from clipkd.tables.grouping import groups, rows_of
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.table import spread
from clipkd.tables.terms import EPOCHS, mark, of_labels

BAR, GAP = 1.0, 0.6
"""Height of a bar and of the space between train types, in units of the vertical axis."""


def draw(results: Results, dataset: str) -> Figure:
    """Return the figure of one dataset: a panel for each student and recipe."""
    runs = results.comparable
    runs = runs[runs.is_headline & (runs.dataset == dataset)]
    panels = dict(groups(runs, "student", "labels", "recipe"))
    students = list(dict.fromkeys(zip(runs.student, runs.labels, strict=True)))
    chosen = runs.recipe.unique()
    colours = teacher_colours([name for name in runs.teacher.unique() if name != NO_TEACHER])
    empty = runs[:0]
    heights = [max(extent(panels.get((*student, recipe), empty)) for recipe in chosen) for student in students]
    title = f"{dataset_title(dataset, results.config)}: test accuracy by train type"
    figure = new_figure(4.8 * len(chosen) + 0.8, 0.22 * sum(heights) + 0.75 * len(students) + 1.2, title)
    grid = figure.subplots(len(students), len(chosen), squeeze=False, height_ratios=heights)
    for line, (student, labels), height in zip(grid, students, heights, strict=True):
        for axes, recipe in zip(line, chosen, strict=True):
            here = panels.get((student, labels, recipe))
            if here is None:
                axes.set_axis_off()
                continue
            axes.set_title(f"{student}{of_labels(labels)}, recipe {recipe} ({EPOCHS[here.epoch.iloc[0]]})")
            panel(axes, here, colours)
            axes.set_ylim(height - GAP - BAR / 3, -BAR * 0.67)  # rows share a scale across recipes
    for axes in grid[-1]:
        axes.set_xlabel("test top-1 (%)")
    titles = teacher_titles(colours)
    handles: list[Any] = [Patch(color=colour, label=f"teacher {titles[name]}") for name, colour in colours.items()]
    handles += [Patch(color=GREY, label="no teacher"), Line2D([], [], color="black", ls=":", label="chance")]
    legend(figure, handles, "bars: mean over seeds ± sample standard deviation (n); dots: seeds")
    return figure


def extent(runs: pd.DataFrame) -> float:
    """Return the height of a panel's bars."""
    return BAR * len(runs.drop_duplicates(["train_type", "teacher"])) + GAP * runs.train_type.nunique()


def panel(axes: Axes, runs: pd.DataFrame, colours: dict[str, str]) -> None:
    """Draw the bars of one student and recipe."""
    position, ticks = 0.0, {}
    for name in train_types_of(runs):
        start = position
        for teacher, members in groups(runs[runs.train_type == name], "teacher"):
            bar(axes, members, position, colours.get(teacher, GREY))
            position += BAR
        ticks[name] = (start + position - BAR) / 2
        position += GAP
    rows_axis(axes, list(ticks), list(ticks.values()))
    axes.set_xlim(0, 128)  # room for the numbers beside the bars
    axes.set_xticks(range(0, 101, 20))
    axes.spines["bottom"].set_bounds(0, 100)
    for classes in runs.classes.dropna().head(1):
        axes.axvline(100 / classes, color="black", ls=":", lw=1)


def bar(axes: Axes, runs: pd.DataFrame, position: float, colour: str) -> None:
    """Draw one bar, its deviation, its seeds and its number."""
    (found,) = rows_of(accuracy(runs))
    is_incomplete = found.n < found.n_asked
    if not found.n:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(1, position, mark("missing", is_incomplete), va="center", fontsize=7.5, bbox=box)
        return
    mean, deviation = 100 * found.mean, 100 * found.deviation
    axes.barh(position, mean, height=0.86 * BAR, color=colour, alpha=0.85)
    error_bar(axes, mean, position, deviation if found.n > 1 else None)
    seeds = 100 * runs.top1.dropna()
    axes.plot(seeds, [position] * len(seeds), ".", ms=4, color="white", mec="black", mew=0.4, zorder=3)
    right = max(mean + (deviation if found.n > 1 else 0), *seeds)
    text = mark(spread(mean, deviation, found.n, digits=1), is_incomplete)
    axes.text(right + 1.5, position, text, va="center", fontsize=7.5)
