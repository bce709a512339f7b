"""Accuracy by train type: bars over teachers, error bars over seeds, the chance level."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clipkd.plugins import recipes
from clipkd.report.figures.style import (
    GREY,
    error_bar,
    legend,
    mark,
    new_figure,
    rows_axis,
    teacher_colours,
)
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.tables.results import (
    Results,
    accuracy_cells,
    dataset_title,
    headline,
    teacher_names,
    teacher_titles,
    train_types,
    values,
    where,
)

EPOCHS = {"selected": "validation-selected epoch", "last": "last epoch"}
BAR, GAP = 1.0, 0.6
"""Height of a bar and of the space between train types, in units of the vertical axis."""


def draw(results: Results, dataset: str) -> Figure:
    """Return the figure of one dataset: a panel for each student and recipe."""
    cells = where(accuracy_cells(results.cells), dataset=dataset)
    students, chosen = values(cells, "student"), values(cells, "recipe")
    colours = teacher_colours(teacher_names(cells))
    heights = [max(extent(where(cells, student=student, recipe=recipe)) for recipe in chosen) for student in students]
    title = f"{dataset_title(dataset, results.config)}: test accuracy by train type"
    figure = new_figure(4.8 * len(chosen) + 0.8, 0.22 * sum(heights) + 0.75 * len(students) + 1.2, title)
    grid = figure.subplots(len(students), len(chosen), squeeze=False, height_ratios=heights)
    for line, student, height in zip(grid, students, heights, strict=True):
        for axes, recipe in zip(line, chosen, strict=True):
            kind = headline(recipes.get(recipe).selection)
            axes.set_title(f"{student}, recipe {recipe} ({EPOCHS[kind]})")
            panel(axes, results, where(cells, student=student, recipe=recipe), kind, colours)
            axes.set_ylim(height - GAP - BAR / 3, -BAR * 0.67)  # rows share a scale across recipes
    for axes in grid[-1]:
        axes.set_xlabel("test top-1 (%)")
    titles = teacher_titles(colours)
    handles: list[Any] = [Patch(color=colour, label=f"teacher {titles[name]}") for name, colour in colours.items()]
    handles += [Patch(color=GREY, label="no teacher"), Line2D([], [], color="black", ls=":", label="chance")]
    legend(figure, handles, "bars: mean over seeds ± sample standard deviation (n); dots: seeds")
    return figure


def bars(cells: list[Cell]) -> list[tuple[str, str]]:
    """Return (train type, teacher) of each bar, top to bottom."""
    return [
        (name, teacher) for name in train_types(cells) for teacher in values(where(cells, train_type=name), "teacher")
    ]


def extent(cells: list[Cell]) -> float:
    """Return the height of a panel's bars."""
    return BAR * len(bars(cells)) + GAP * len(train_types(cells))


def panel(axes: Axes, results: Results, cells: list[Cell], kind: str, colours: dict[str, str]) -> None:
    """Draw the bars of one student and recipe."""
    position, ticks = 0.0, {}
    for name in train_types(cells):
        start = position
        for teacher in values(where(cells, train_type=name), "teacher"):
            members = where(cells, train_type=name, teacher=teacher)
            bar(axes, results, members, kind, position, GREY if teacher == NO_TEACHER else colours[teacher])
            position += BAR
        ticks[name] = (start + position - BAR) / 2
        position += GAP
    rows_axis(axes, list(ticks), list(ticks.values()))
    axes.set_xlim(0, 128)  # room for the numbers beside the bars
    axes.set_xticks(range(0, 101, 20))
    axes.spines["bottom"].set_bounds(0, 100)
    classes = next((results.runs[cell].metrics.classes for cell in cells if cell in results.runs), None)
    if classes:
        axes.axvline(100 / classes, color="black", ls=":", lw=1)


def bar(axes: Axes, results: Results, cells: list[Cell], kind: str, position: float, colour: str) -> None:
    """Draw one bar, its deviation, its seeds and its number."""
    summary, is_incomplete = results.summary(cells, kind), results.incomplete(cells)
    if summary is None:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(1, position, mark("missing", is_incomplete), va="center", fontsize=7.5, bbox=box)
        return
    mean, deviation = 100 * summary.mean, None if summary.deviation is None else 100 * summary.deviation
    axes.barh(position, mean, height=0.86 * BAR, color=colour, alpha=0.85)
    error_bar(axes, mean, position, deviation)
    seeds = [100 * value for value in results.scores(cells, kind).values()]
    axes.plot(seeds, [position] * len(seeds), ".", ms=4, color="white", mec="black", mew=0.4, zorder=3)
    text = f"{mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}") + f" ({summary.n})"
    right = max([mean + (deviation or 0), *seeds])
    axes.text(right + 1.5, position, mark(text, is_incomplete), va="center", fontsize=7.5)
