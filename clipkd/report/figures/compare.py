"""Learning curves of chosen runs, laid over one another."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from clipkd.report.figures.style import PALETTE, epoch_axes, legend, new_figure
from clipkd.runs.finished import FinishedRun
from clipkd.tables.compare import label

STYLES = ("-", "--", ":", "-.")
WIDEST_IN_COLUMNS = 40
"""A longer label gets a line of the legend for itself."""


def draw(runs: Sequence[FinishedRun]) -> Figure:
    """Return held-out accuracy and training loss against the epoch, a line for each run."""
    figure = new_figure(8.4, 4.2, "Learning curves")
    left, right = figure.subplots(1, 2)
    handles = []
    for index, one in enumerate(runs):
        colour, style = PALETTE[index % len(PALETTE)], STYLES[index // len(PALETTE) % len(STYLES)]
        epochs = [epoch.epoch for epoch in one.history]
        line = {"color": colour, "ls": style, "lw": 1.4, "marker": "." if len(epochs) == 1 else ""}
        left.plot(epochs, [100 * epoch.val.top1 for epoch in one.history if epoch.val], **line)
        right.plot(epochs, [epoch.train_loss for epoch in one.history], **line)
        text = f"{index + 1}: {label(runs, index)}"
        handles.append(Line2D([], [], color=colour, ls=style, lw=1.8, label=text))
    epoch_axes(left, right, [one.history[0].split for one in runs])
    for axes in (left, right):
        axes.set_xlabel("epoch")
    widest = max(len(str(handle.get_label())) for handle in handles)
    legend(figure, handles, "one line a run", columns=1 if widest > WIDEST_IN_COLUMNS else 2)
    return figure
