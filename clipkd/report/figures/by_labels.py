"""Accuracy against the number of labels: a line for each train type and for the teacher's classifier."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from clipkd.report.figures.style import RED, legend, line_style, new_figure
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.accuracy import train_types_of
from clipkd.tables.by_labels import HEAD, SHORT, by_labels, interval_of
from clipkd.tables.grouping import groups, rows_of, summary_of
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.terms import mark

APART = 1.015
"""Factor between the places of two lines' intervals, so that they can be told apart."""

ALONE = 1.5
"""Factor from a single number of labels to either end of the axis."""


def draw(results: Results, dataset: str) -> Figure:
    """Return the figure of one dataset: a panel for each student and recipe (down) and teacher (across).

    Only of those with runs of few labels; a student that is trained alone has a panel where none is taught.
    """
    rows = by_labels(results)
    rows = rows[rows.dataset == dataset]
    few = rows[rows.labels != "all"]
    taught = few[few.teacher != NO_TEACHER]
    shown = few if taught.empty else taught
    titles = teacher_titles(shown.teacher.unique())
    kept = set(zip(shown.student, shown.recipe, strict=True))
    is_kept = [place in kept for place in zip(rows.student, rows.recipe, strict=True)]
    rows = rows[is_kept]
    rows = rows[rows.teacher.isin([*titles, NO_TEACHER])]
    places = groups(rows, "student", "recipe")
    title = f"{dataset_title(dataset, results.config)}: test accuracy by number of labels"
    figure = new_figure(max(6.0, 0.8 + 4.6 * len(titles)), 0.9 + 3.4 * len(places), title)
    grid = figure.subplots(len(places), len(titles), squeeze=False, sharey="row")
    runs = results.comparable
    types = [name for name in train_types_of(runs[runs.dataset == dataset]) if name in set(rows.train_type)]
    for line, ((student, recipe), here) in zip(grid, places, strict=True):
        for axes, (teacher, named) in zip(line, titles.items(), strict=True):
            axes.set_title(f"{student}, recipe {recipe}, teacher {named}")
            panel(axes, here[here.teacher.isin([teacher, NO_TEACHER])], types)
        line[0].set_ylabel("test top-1 (%)")
        low, high = line[0].get_ylim()
        line[0].set_ylim(max(low, 0), min(high, 100))
    for axes in grid[-1]:
        axes.set_xlabel("labelled images, validation included")
    legend(
        figure,
        handles(rows, types),
        "points: mean over seeds; bars: its 95 % confidence interval (Student's t)",
        columns=3,
    )
    return figure


def panel(axes: Axes, rows: pd.DataFrame, types: list[str]) -> None:
    """Draw the lines of one student, recipe and teacher."""
    for place, name in enumerate(name for name in types if name in set(rows.train_type)):
        colour, style = line_style(name, types)
        points(axes, rows[rows.train_type == name], "top1", colour, style, APART**place)
    taught = rows.dropna(subset=f"{HEAD}_mean").drop_duplicates("labels")
    points(axes, taught, HEAD, RED, ":", 1 / APART)
    axes.set_xscale("log")
    seen = {row.seen: row.labels for row in rows_of(rows) if row.seen == row.seen}
    axes.xaxis.set_major_locator(FixedLocator(sorted(seen)))
    axes.xaxis.set_minor_locator(NullLocator())
    if len(seen) == 1:  # the points lie at their tick, not across the width
        axes.set_xlim(min(seen) / ALONE, min(seen) * ALONE)
    axes.set_xticklabels([f"{count:,.0f}" + "\nall" * (seen[count] == "all") for count in sorted(seen)])


def points(axes: Axes, rows: pd.DataFrame, column: str, colour: str, style: str, shift: float) -> None:
    """Draw one line: means over seeds against the number of labels, each with its interval."""
    places, means, lows, highs = [], [], [], []
    for row in rows_of(rows.sort_values("seen")):
        found = summary_of(row, column)
        if not found.n:
            continue
        mean, (low, high) = found.mean, interval_of(*found) or (found.mean, found.mean)
        places.append(row.seen * shift)
        means.append(100 * mean)
        lows.append(100 * (mean - low))
        highs.append(100 * (high - mean))
    if places:
        axes.errorbar(places, means, yerr=[lows, highs], color=colour, ls=style, lw=1.4, marker="o", ms=4, capsize=2.5)


def handles(rows: pd.DataFrame, types: list[str]) -> list[Any]:
    """Return the legend's lines."""
    found = []
    for name in types:
        colour, style = line_style(name, types)
        mine = rows[rows.train_type == name]
        label = mark(name, bool((mine.n < mine.n_asked).any()))
        found.append(Line2D([], [], color=colour, ls=style, marker="o", ms=4, label=label))
    heads = " or ".join(SHORT[head] for head in sorted(rows["head"].dropna().unique()))
    return found + [Line2D([], [], color=RED, ls=":", marker="o", ms=4, label=f"the teacher's {heads}")] * bool(heads)
