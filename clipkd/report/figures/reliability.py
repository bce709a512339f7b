"""Reliability: how often a student is right against how sure it is."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clipkd.plugins.recipes import name_in
from clipkd.report.figures.style import GREY, PALETTE, RED, legend, new_figure
from clipkd.runs.measured import Evaluation

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
