"""Every figure of a config, drawn and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipkd.report.figures import (
    FORMATS,
    accuracy,
    by_labels,
    confusion,
    cost,
    embeddings,
    figures,
    learning_curves,
    reliability,
    resources,
)
from clipkd.report.figures.style import save, styled
from clipkd.spec.settings import Config
from clipkd.tables.cleanup import remove_leftovers
from clipkd.tables.results import Results

DRAW: dict[str, Any] = {
    "accuracy": accuracy.draw,
    "labels": by_labels.draw,
    "learning-curves": learning_curves.draw,
    "reliability": reliability.draw_grid,
    "confusion": confusion.draw,
    "embeddings": embeddings.draw,
    "cost": cost.draw,
    "resources": resources.draw,
}


def write_figures(config: Config, results: Path, data: Path, output: Path, partial: bool = False) -> None:
    """Read the runs of a config and write every figure.

    Args:
        config: a resolved config.
        results: the folder that holds runs/.
        data: the folder that holds datasets/, teachers/ and embeddings/.
        output: the folder to write to.
        partial: show what is there, with marks, instead of refusing an incomplete grid.

    Raises:
        DataError: a run, manifest or array is missing or damaged; the message names it.
    """
    draw_figures(Results.collect(config, results / "runs", data, partial), output)


def draw_figures(found: Results, output: Path) -> None:
    """Write every figure, in every format; delete those that only an earlier config had.

    Raises:
        DataError: an array is missing or damaged; the message names it.
    """
    drawn = figures(found.config, found.cells)
    for stem, (kind, *what) in drawn.items():
        with styled():
            save(DRAW[kind](found, *what), output, stem, found.gaps())
    remove_leftovers(output, [f"{stem}.{suffix}" for stem in drawn for suffix in FORMATS])
