"""Confusion of classes: a panel per train type and teacher, seeds together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from matplotlib.figure import Figure

from clipkd.core.artifacts import read_manifest
from clipkd.core.errors import DataError
from clipkd.report.figures.learning_curves import cells_of
from clipkd.report.figures.style import new_figure
from clipkd.runs.measured import Evaluation
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.tables.results import Results, dataset_title, teacher_titles, train_types
from clipkd.tables.terms import of_labels

MEASURE = "classes"
NAMED = 20
"""Classes that are named on the axes, at most."""
COLUMNS = 4


def draw(results: Results, recipe: str, dataset: str, student: str, labels: str = "all") -> Figure:
    """Return the figure of one recipe, dataset, student and number of labels."""
    cells = cells_of(results, recipe, dataset, student, labels)
    order = train_types(cells)
    panels = dict.fromkeys((cell.train_type, cell.teacher) for cell in cells)
    panels = dict.fromkeys(sorted(panels, key=lambda panel: order.index(panel[0])))
    titles = teacher_titles(dict.fromkeys(teacher for _, teacher in panels))
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    place = f"{student}, recipe {recipe}{of_labels(labels)}"
    title = f"{dataset_title(dataset, results.config)}: confusion of classes, {place}"
    figure = new_figure(max(6.0, 3.2 * columns), 0.6 + 3.4 * rows, title)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    picture = None
    layout, spec = results.teachers.layout, cells[0].dataset_spec
    given, of_dataset = layout.names_of(spec), class_order(results, cells[0])
    needs_order = given is not None and given.classes is None
    for axes, (train_type, teacher) in zip(grid.flat, panels, strict=False):
        shown = [one for one in cells if (one.train_type, one.teacher) == (train_type, teacher)]
        of_cells = [results.evaluations[one] for one in shown if one in results.evaluations]
        names, shares = together(of_cells, of_dataset)
        axes.set_title(train_type if teacher == NO_TEACHER else f"{train_type}\n{titles[teacher]}")
        if names:
            if names == of_dataset or not needs_order:
                names = [str(name) for name in layout.prompts(spec).of(names)]
            picture = axes.imshow(100 * shares, vmin=0, vmax=100, cmap="Blues")
            ticks = range(len(names)) if len(names) <= NAMED else []
            axes.set_xticks(ticks, names if ticks else [], rotation=90)
            axes.set_yticks(ticks, names if ticks else [])
            axes.grid(visible=False)
    figure.supxlabel("classified as")
    if picture is not None:
        figure.colorbar(picture, ax=grid, shrink=0.6, label="images of a class (row), %")
    return figure


def class_order(results: Results, cell: Cell) -> list[str]:
    """Return the class names of a cell's dataset in its own order; none where the dataset is not there."""
    with suppress(DataError, KeyError):
        return list(read_manifest(results.teachers.layout.dataset(cell.dataset_spec))["facts"]["classes"])
    return []


def together(evaluations: Sequence[Evaluation], order: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return class names, and the share [C, C] of a class's images (row) that is classified as each class.

    `order`: that of the names; where they are others, they are sorted, as the evaluations' files are.
    """
    found = [one.measures[MEASURE].details["confusion"] for one in evaluations if MEASURE in one.measures]
    names = list(found[0]) if found else []
    names = list(order) if set(order) == set(names) else names
    place = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)))
    for confusion in found:
        for name, predicted in confusion.items():
            for other, images in predicted.items():
                counts[place[name], place[other]] += images
    return names, counts / counts.sum(axis=1, keepdims=True).clip(min=1)
