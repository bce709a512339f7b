"""Learning curves: held-out accuracy and training loss against the epoch, a column for each teacher."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipkd.report.figures.style import epoch_axes, legend, line_style, new_figure
from clipkd.runs.record import EpochRecord
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.tables.grouping import AXES, axes_of
from clipkd.tables.results import (
    Results,
    accuracy_cells,
    dataset_title,
    teacher_names,
    teacher_titles,
    train_types,
    where,
)
from clipkd.tables.terms import mark, of_labels


def draw(results: Results, recipe: str, dataset: str, student: str, labels: str = "all") -> Figure:
    """Return the figure of one recipe, dataset, student and number of labels."""
    cells = cells_of(results, recipe, dataset, student, labels)
    teachers = teacher_names(cells) or [NO_TEACHER]
    titles, types = teacher_titles(teachers), train_types(cells)
    place = f"{student}, recipe {recipe}{of_labels(labels)}"
    title = f"{dataset_title(dataset, results.config)}: learning curves of {place}"
    figure = new_figure(max(6.0, 1.2 + 3.4 * len(teachers)), 6.2, title)
    grid = figure.subplots(2, len(teachers), squeeze=False, sharex=True, sharey="row")
    splits = {results.runs[cell].history[0].split for cell in cells if cell in results.runs}
    for column, teacher in enumerate(teachers):
        shown = [cell for cell in cells if cell.teacher in (teacher, NO_TEACHER)]
        grid[0][column].set_title("no teacher" if teacher == NO_TEACHER else f"teacher {titles[teacher]}")
        curves(grid[0][column], results, shown, lambda epoch: 100 * epoch.val.top1 if epoch.val else math.nan, types)
        curves(grid[1][column], results, shown, lambda epoch: epoch.train_loss, types)
        grid[1][column].set_xlabel("epoch")
    epoch_axes(grid[0][0], grid[1][0], splits)
    handles = []
    for name in types:
        colour, style = line_style(name, types)
        label = mark(name, any(cell not in results.runs for cell in where(cells, train_type=name)))
        handles.append(Line2D([], [], color=colour, ls=style, lw=1.8, label=label))
    legend(figure, handles, "lines: mean over seeds; bands: lowest to highest seed")
    return figure


def cells_of(results: Results, recipe: str, dataset: str, student: str, labels: str) -> list[Cell]:
    """Return the cells of a figure; of a sweep, those of its chosen settings."""
    rows = results.comparable
    settings = set(rows[rows.recipe == recipe][["setting", *AXES[1:], "seed"]].itertuples(index=False, name=None))
    cells = where(accuracy_cells(results.cells), dataset=dataset, student=student)
    return [cell for cell in cells if (*axes_of(cell), cell.seed) in settings and str(cell.labels) == labels]


def curves(
    axes: Axes, results: Results, cells: list[Cell], number: Callable[[EpochRecord], float], types: list[str]
) -> None:
    """Draw one number of the histories: a line and a band for each train type."""
    for name in train_types(cells):
        runs = [results.runs[cell] for cell in where(cells, train_type=name) if cell in results.runs]
        if not runs:
            continue
        length = min(len(run.history) for run in runs)
        seeds = np.array([[number(epoch) for epoch in run.history[:length]] for run in runs])
        epochs = np.arange(1, length + 1)
        colour, style = line_style(name, types)
        axes.fill_between(epochs, seeds.min(axis=0), seeds.max(axis=0), color=colour, alpha=0.15, lw=0)
        axes.plot(epochs, seeds.mean(axis=0), color=colour, ls=style, lw=1.4, marker="." if length == 1 else "")
