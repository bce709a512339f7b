"""Reliability: how often a student is right against how sure it is."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clipkd.plugins.recipes import name_in
from clipkd.report.figures.learning_curves import cells_of
from clipkd.report.figures.style import GREY, PALETTE, RED, legend, line_style, new_figure
from clipkd.runs.measured import Evaluation
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.results import Results, dataset_title, teacher_names, teacher_titles, train_types, where
from clipkd.tables.terms import of_labels

MEASURE = "calibration"


def draw(evaluation: Evaluation) -> Figure:
    """Return the reliability diagram (C. Guo et al., https://arxiv.org/abs/1706.04599, figure 1), and the bins' images.

    Bars: the accuracy of each bin, at its confidences; a mark: their mean. What lies between both is its gap.
    """
    found, where = evaluation.measures[MEASURE], evaluation.trained
    if "recipe" in where:
        where = where | {"recipe": name_in(where["recipe"])}
    names = " / ".join(str(where[axis]) for axis in ("recipe", "student", "teacher", "train_type") if axis in where)
    figure = new_figure(4.6, 5.4, f"Reliability on {evaluation.dataset}: {names}, seed {where.get('seed', '?')}")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 100), (0, 100), color=GREY, lw=1, ls="--")
    for one in found.details["bins"]:
        left, width = 100 * one["above"], 100 * (one["up_to"] - one["above"])
        upper.bar(left, 100 * one["accuracy"], width, align="edge", color=PALETTE[0], edgecolor="white")
        upper.plot([100 * one["confidence"]] * 2, [100 * one["accuracy"], 100 * one["confidence"]], color=RED, lw=1.2)
        upper.plot(100 * one["confidence"], 100 * one["confidence"], color=RED, marker=".", ls="")
        lower.bar(left, one["images"], width, align="edge", color=GREY, edgecolor="white")
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)", title=f"ECE {100 * found.numbers['ece']:.1f} %")
    lower.set(xlabel="confidence (%)", ylabel="test images")
    handles = [
        Patch(color=PALETTE[0], label="accuracy of a bin"),
        Line2D([], [], color=RED, marker=".", lw=1.2, label="its mean confidence, and the gap"),
        Line2D([], [], color=GREY, ls="--", lw=1, label="as often right as sure"),
    ]
    legend(figure, handles, f"{len(found.details['bins'])} bins that hold images", columns=1)
    return figure


def draw_grid(results: Results, recipe: str, dataset: str, student: str, labels: str = "all") -> Figure:
    """Return the figure of one recipe, dataset, student and number of labels: a line per train type, seeds together."""
    cells = cells_of(results, recipe, dataset, student, labels)
    teachers, types = teacher_names(cells) or [NO_TEACHER], train_types(cells)
    titles = teacher_titles(teachers)
    place = f"{student}, recipe {recipe}{of_labels(labels)}"
    title = f"{dataset_title(dataset, results.config)}: reliability of {place}"
    figure = new_figure(max(6.0, 1.2 + 3.4 * len(teachers)), 4.6, title)
    (row,) = figure.subplots(1, len(teachers), squeeze=False, sharey=True)
    for axes, teacher in zip(row, teachers, strict=True):
        axes.plot((0, 100), (0, 100), color=GREY, lw=1, ls=":")
        for name in types:
            shown = [one for one in where(cells, train_type=name) if one.teacher in (teacher, NO_TEACHER)]
            points = together([results.evaluations[one] for one in shown if one in results.evaluations])
            colour, style = line_style(name, types)
            axes.plot([100 * x for x, _ in points], [100 * y for _, y in points], color=colour, ls=style, marker=".")
        axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence (%)")
        axes.set_title("no teacher" if teacher == NO_TEACHER else f"teacher {titles[teacher]}")
    row[0].set_ylabel("accuracy (%)")
    styles = {name: line_style(name, types) for name in types}
    handles = [
        Line2D([], [], color=colour, ls=style, marker=".", label=name) for name, (colour, style) in styles.items()
    ]
    legend(figure, handles, "bins of confidence that hold images of any seed")
    return figure


def together(evaluations: Sequence[Evaluation]) -> list[tuple[float, float]]:
    """Return mean confidence and accuracy of each bin over all images of several evaluations, as shares of 1."""
    bins: dict[float, list[dict[str, float]]] = {}
    for evaluation in evaluations:
        found = evaluation.measures.get(MEASURE)
        for one in found.details["bins"] if found else ():
            bins.setdefault(one["above"], []).append(one)
    points = []
    for _, members in sorted(bins.items()):
        images = sum(one["images"] for one in members)
        confidence, accuracy = (sum(one["images"] * one[of] for one in members) for of in ("confidence", "accuracy"))
        points.append((confidence / images, accuracy / images))
    return points
