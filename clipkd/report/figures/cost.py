"""Cost: seconds per epoch and teacher passes, with a live and with a cached teacher."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clipkd.report.figures.style import GREY, error_bar, legend, mark, new_figure, plain_rows, rows_axis
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.cost_rows import CostRow, cached_of, cost_rows, slower
from clipkd.tables.results import Results, dataset_title, teacher_title

COLOURS = {"none": GREY, "cached": "#0072B2", "live": "#D55E00", "lazy": "#E69F00", "replayed": "#56B4E9"}
LABELS = {
    "none": "no teacher",
    "cached": "cached: teacher passes once, shared by all students",
    "live": "live teacher",
    "lazy": "lazy: teacher once per view, in training",
    "replayed": "replayed: stored random views",
}


def draw(results: Results) -> Figure:
    """Return the figure: a line of panels for each dataset."""
    rows = cost_rows(results)
    groups = {dataset: main_rows(rows, dataset) for dataset in dict.fromkeys(row.first.dataset for row in rows)}
    heights = [len(group) for group in groups.values()]
    figure = new_figure(10, 0.24 * sum(heights) + 0.85 * len(heights) + 1.2, "Cost of training one student")
    grid = figure.subplots(
        len(groups), 2, squeeze=False, sharey="row", height_ratios=[height + 1.5 for height in heights]
    )
    for (time, passes), (dataset, group) in zip(grid, groups.items(), strict=True):
        example = next((row.first for row in group if row.first.teacher != NO_TEACHER), group[0].first)
        names = (dataset_title(dataset, results.config), example.student, teacher_title(example.teacher))
        time.set_title(f"{', '.join(names)}, recipe {example.recipe}")
        passes.set_title("; ".join(dict.fromkeys(row.devices for row in group if row.costs)), color=GREY, fontsize=8)
        labels = [
            row.first.train_type if row.source in {"none", "cached"} else f"{row.first.train_type}, {row.source}"
            for row in group
        ]
        draw_seconds(time, group)
        draw_passes(passes, group)
        rows_axis(time, labels)
    grid[-1][0].set_xlabel("seconds per epoch, training part (in brackets: × cached)")
    grid[-1][1].set_xlabel("images through the teacher for one student, all epochs")
    sources = {row.source for group in groups.values() for row in group}
    handles = [Patch(color=COLOURS[source], label=label) for source, label in LABELS.items() if source in sources]
    legend(figure, handles, "mean over seeds ± sample standard deviation")
    return figure


def main_rows(rows: list[CostRow], dataset: str) -> list[CostRow]:
    """Return a dataset's rows of one student, teacher and recipe: those that also ran live, else the first."""
    here = [row for row in rows if row.first.dataset == dataset]
    main = next((row.first for row in here if row.source == "live"), None)
    main = main or next((row.first for row in here if row.first.teacher != NO_TEACHER), here[0].first)
    return [
        row
        for row in here
        if (row.first.student, row.first.recipe) == (main.student, main.recipe)
        and row.first.teacher in (main.teacher, NO_TEACHER)
    ]


def draw_seconds(axes: Axes, rows: list[CostRow]) -> None:
    """Draw seconds per epoch."""
    most = max((row.seconds.mean for row in rows if row.seconds), default=1.0)
    for position, row in enumerate(rows):
        if row.seconds is None:
            axes.text(0, position, mark(" missing", True), va="center", fontsize=8)
            continue
        axes.barh(position, row.seconds.mean, height=0.75, color=COLOURS[row.source])
        error_bar(axes, row.seconds.mean, position, row.seconds.deviation or None)
        ratio, right = slower(row, rows), row.seconds.mean + (row.seconds.deviation or 0.0)
        text = mark(f"{row.seconds.mean:.3g} s" + (f" ({ratio:.2g} ×)" if ratio else ""), row.is_incomplete)
        axes.text(right + 0.015 * most, position, text, va="center", fontsize=8)
    axes.set_xlim(0, 1.35 * most)


def passes_of(row: CostRow, rows: list[CostRow]) -> float | None:
    """Return the images through the teacher for one student in all its epochs; None where it is not known.

    A live run may have fewer epochs than the cached one; its passes are scaled up to those.
    """
    if row.source == "none":
        return 0.0
    if row.source == "cached":
        return float(row.extraction.forward_passes) if row.extraction else None
    cached, passes = cached_of(row, rows), row.mean(lambda cost: cost.teacher.forward_passes)
    return None if passes is None else passes / row.first.epochs * (cached.first.epochs if cached else row.first.epochs)


def draw_passes(axes: Axes, rows: list[CostRow]) -> None:
    """Draw teacher passes, on a logarithmic axis."""
    passes = [passes_of(row, rows) for row in rows]
    most = max((value for value in passes if value), default=1.0)
    least = 1.0
    axes.set_xscale("log")
    axes.set_xlim(least, most * (most / least) ** 0.45)
    for position, (row, value) in enumerate(zip(rows, passes, strict=True)):
        if value:
            axes.barh(position, value - least, left=least, height=0.75, color=COLOURS[row.source])
        text = mark("missing", True) if value is None else f"{value:,.0f}"
        if row.source == "live" and value is not None:
            cached = cached_of(row, rows)
            text = mark(f"{text} in {(cached or row).first.epochs} epochs", row.is_incomplete)
        axes.text(max(value or 0, least) * (most / least) ** 0.015, position, text, va="center", fontsize=8)
    plain_rows(axes)
