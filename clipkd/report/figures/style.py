"""Style of the figures: colours that colour-blind readers can tell apart, and files that are equal on every run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from clipkd.core.files import written_aside
from clipkd.plugins import methods
from clipkd.tables.terms import BASELINE, WRONG

DPI = 150
GREY = "#6b6b6b"
RED = "#a00000"
LEFT = 0.008
"""Where a title starts, as a share of the figure's width."""
TITLE_LINE = 0.185
"""The height of a line of a title, in inches."""
TEXT_WIDTH = 0.95
"""The share of the figure's width that a line of text may fill."""
# M. Okabe, K. Ito, "Color Universal Design", https://jfly.uni-koeln.de/color/ (without black and yellow)
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
TRAIN_TYPES = {
    BASELINE: (GREY, "-"),
    "vanilla": ("#0072B2", "-"),
    "teacher-KD": ("#009E73", "-"),
    "embed-KD": ("#D55E00", "-"),
    "feature-KD": ("#999933", "-"),
    "feature-KD-mse": ("#DDCC77", "-"),
    "sigmoid-KD": ("#44AA99", "-"),
    "embed-KD-nd": ("#CC6677", "-"),
    "RKD": ("#56B4E9", "-"),
    "DKD": ("#882255", "-"),
    "DIST": ("#AA4499", "-"),
    "embed-KD-random": ("#E69F00", "--"),
    "embed-KD-permuted": ("#CC79A7", "--"),
    "embed-KD-onehot": ("#56B4E9", "--"),
    "teacher-KD-permuted": ("#44AA99", "--"),
    "teacher-KD-within-class": ("#117733", "-."),
    "vanilla-permuted": ("#88CCEE", "--"),
    "vanilla-within-class": ("#332288", "-."),
}
"""Train type -> colour and line style; controls are dashed, those not named here in their method's colour. (Colours not
of the palette: P. Tol, Colour schemes, 2021.)"""
SETTINGS: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#555555",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "svg.hashsalt": "clipkd",
    "svg.fonttype": "path",
}


def styled() -> AbstractContextManager[None]:
    """Return the context in which a figure is drawn and saved: our settings over matplotlib's defaults."""
    settings: Any = dict(matplotlib.rcParamsDefault) | SETTINGS | {"backend": "agg"}
    return matplotlib.rc_context(settings)


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(wrapped(figure, title, is_title=True), x=LEFT, ha="left")
    return figure


def text_width(text: str, is_title: bool = False) -> float:
    """Return how wide a line of text is drawn, in inches."""
    size, weight = ("figure.titlesize", "figure.titleweight") if is_title else ("font.size", "font.weight")
    settings: Any = matplotlib.rcParamsDefault | SETTINGS
    font = FontProperties(size=settings[size], weight=settings[weight])
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def wrapped(figure: Figure, text: str, is_title: bool = False) -> str:
    """Return a text with line breaks, so that it is no wider than the figure."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, is_title) <= TEXT_WIDTH * figure.get_figwidth():
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def save(figure: Figure, folder: Path, stem: str, gaps: Iterable[str] = ()) -> None:
    """Write a figure as PNG and SVG; one of an incomplete or mixed grid says so, and is higher by these lines."""
    said = "\n".join(wrapped(figure, line, is_title=True) for line in headlines(gaps))
    if said:
        figure.suptitle(f"{figure.get_suptitle()}\n{said}", x=LEFT, ha="left", color=RED)
        figure.set_figheight(figure.get_figheight() + TITLE_LINE * len(said.split("\n")))
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        with written_aside(folder / f"{stem}.{suffix}") as aside:
            figure.savefig(aside, format=suffix, dpi=DPI, metadata=metadata)
        figure.set_layout_engine(None)  # both formats have the layout of the first: it takes as long as drawing


def headlines(gaps: Iterable[str]) -> list[str]:
    """Return the first sentences of the lines that say what is wrong; the tables have all of them."""
    return [line.partition(". ")[0].removesuffix(".") + "." for line in gaps if line.startswith(WRONG)]


def legend(figure: Figure, handles: list[Any], title: str, columns: int = 4) -> None:
    """Put a legend of at most `columns` columns below the panels, under a line that explains the marks."""
    labels = [text_width(handle.get_label()) for handle in handles]
    while columns > 1 and legend_width(labels, columns) > figure.get_figwidth():
        columns -= 1
    wrapped_title = wrapped(figure, title)
    made = figure.legend(
        handles=handles, loc="outside lower left", ncols=columns, title=wrapped_title, alignment="left"
    )
    for label in made.get_texts():
        label.set_parse_math(False)  # a path may hold dollar signs


def legend_width(labels: list[float], columns: int) -> float:
    """Return the width in inches of a legend whose labels are as wide as given."""
    depth = max(1, math.ceil(len(labels) / columns))
    widest = [max(labels[start : start + depth]) for start in range(0, len(labels), depth)]
    beside = 5.5 * SETTINGS["font.size"] / 72  # a label's handle, and the space on both sides of it
    return float(sum(widest) + beside * len(widest))


def teacher_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each teacher, in order."""
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}


def line_style(train_type: str, others: list[str]) -> tuple[str, str]:
    """Return colour and line style of a train type; those of plug-ins are dotted."""
    if train_type in TRAIN_TYPES:
        return TRAIN_TYPES[train_type]
    control = methods.known().get(train_type)
    if control and control.control_of in TRAIN_TYPES:
        return TRAIN_TYPES[control.control_of][0], "-." if control.target_of == "another image of the class" else "--"
    plugins = [name for name in others if name not in TRAIN_TYPES]
    return PALETTE[plugins.index(train_type) % len(PALETTE)], ":"


def rows_axis(axes: Axes, labels: list[str], positions: list[float] | None = None) -> None:
    """Make the vertical axis a list of names, the first on top."""
    axes.set_yticks(list(range(len(labels))) if positions is None else positions, labels)
    plain_rows(axes)
    # With a margin of its own: rows without a bar, only a word, count too.
    axes.set_ylim(len(labels) - 0.4, -0.6)


def plain_rows(axes: Axes) -> None:
    """Remove ticks and grid lines between the rows."""
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def error_bar(axes: Axes, value: float, position: float, deviation: float | None, color: str = "black") -> None:
    """Draw a horizontal error bar, if there is a deviation."""
    if deviation is not None:
        axes.errorbar(value, position, xerr=deviation, color=color, lw=1, capsize=2)


def epoch_axes(accuracy: Axes, loss: Axes, splits: Iterable[str]) -> None:
    """Label the axes of learning curves: held-out accuracy and training loss against the epoch."""
    accuracy.set_ylabel(f"{' or '.join(sorted(set(splits))) or 'held-out'} top-1 (%)")
    loss.set_ylabel("training loss (each type's own)")
    for axes in (accuracy, loss):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
