"""The results as one pandas frame: a row per run and choice of its epoch. Tables and figures use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pandas as pd

from clipkd.runs.finished import FinishedRun
from clipkd.runs.record import Chosen
from clipkd.spec.cells import Cell
from clipkd.tables.grouping import AXES, axes_of
from clipkd.tables.teacher_stats import TeacherStats, needs_full, needs_head
from clipkd.tables.terms import BASELINE, choices, headline

SCORES: dict[str, Callable[[Chosen], Any]] = {
    "epoch_number": lambda epoch: epoch.epoch,
    "top1": lambda epoch: epoch.test and epoch.test.top1,
    "top5": lambda epoch: epoch.test and epoch.test.top5,
    "loss": lambda epoch: epoch.test and epoch.test.loss,
    "validation_top1": lambda epoch: epoch.validation and epoch.validation.top1,
    "validation_top5": lambda epoch: epoch.validation and epoch.validation.top5,
    "validation_loss": lambda epoch: epoch.validation and epoch.validation.loss,
    "nearest_prototype_top1": lambda epoch: epoch.nearest_prototype and epoch.nearest_prototype.top1,
    "nearest_prototype_top5": lambda epoch: epoch.nearest_prototype and epoch.nearest_prototype.top5,
}
"""Column -> its value of a chosen epoch; accuracies are shares of 1, on the test split unless named otherwise."""
NUMBERS: dict[str, Callable[[FinishedRun], Any]] = {
    "zero_shot_top1": lambda run: run.metrics.zero_shot and run.metrics.zero_shot.top1,
    "classes": lambda run: run.metrics.classes,
    "train_images": lambda run: run.metrics.train_images,
    "validation_images": lambda run: run.metrics.validation_images,
    "labelled_images": lambda run: run.metrics.labelled_images,
    "student_parameters": lambda run: run.metrics.student_parameters,
    "seconds_per_epoch": lambda run: run.cost.median_seconds,
    "images_per_second": lambda run: run.cost.images_per_second,
    "images_per_epoch": lambda run: run.cost.images_per_epoch,
    "teacher_passes": lambda run: run.cost.teacher.forward_passes,
    "weights_bytes": lambda run: run.cost.weights_bytes,
    "peak_memory_bytes": lambda run: run.cost.peak_memory_bytes,
    "peak_memory_of": lambda run: run.cost.peak_memory_of,
    "side_by_side": lambda run: run.cost.side_by_side,
    "device": lambda run: run.cost.device.detail,
    "fingerprint": lambda run: run.metrics.fingerprint,
}
"""Column -> its value of a finished run."""


def frame(
    cells: Sequence[Cell],
    runs: dict[Cell, FinishedRun],
    failed: dict[Cell, str],
    stats: TeacherStats,
    measured: dict[Cell, dict[str, float]],
) -> pd.DataFrame:
    """Return a row per cell, finished or not, and choice of its epoch; in the order of the cells, seeds ascending.

    `measured`: of evaluated students, name -> number; in the row of the selected epoch, whose student it is.
    """
    missing = dict.fromkeys(name for found in measured.values() for name in found)

    @cache
    def of_teacher(kind: Cell) -> dict[str, Any]:
        return teacher_numbers(kind, stats)

    rows = [
        place
        | {"epoch": epoch, "is_headline": False}
        | {"state": "finished" if cell in runs else "failed" if cell in failed else "missing"}
        | {"failure": failed.get(cell)}
        | numbers(runs.get(cell), epoch)
        | of_teacher(cell.kind)
        | missing
        | (measured.get(cell, {}) if epoch != "last" else {})
        for cell in cells
        for place in [names(cell)]
        for epoch in choices(cell.recipe)
    ]
    found = pd.DataFrame(rows)
    kinds = {name: {type(row[name]) for row in rows} for name in rows[0]}
    nullable = {name: "Int64" for name, kind in kinds.items() if kind == {int, type(None)}}
    empty = {name: "float64" for name, kind in kinds.items() if kind == {type(None)}}
    found = found.astype(nullable | empty)
    # Runs without labels choose nothing: they have no say in which epoch is compared.
    has_labels = found.labels != "none"
    held_out = found.validation_images.where(has_labels).groupby([found.recipe, found.dataset]).transform("min")
    held_out = held_out.where(has_labels, 0).astype("float64")
    given = {cell.recipe_spec.name: cell.recipe for cell in cells}
    chosen = [headline(given[name], images) for name, images in zip(found.recipe, held_out, strict=True)]
    found["is_headline"] = found.epoch == chosen
    found["group"] = found.groupby([*AXES, "teacher_source"], sort=False).ngroup()
    return found.sort_values(["group", "seed"], kind="stable", ignore_index=True).drop(columns="group")


def names(cell: Cell) -> dict[str, Any]:
    """Return a run's place in the grid."""
    return {
        **dict(zip(AXES, axes_of(cell), strict=True)),
        "teacher_key": cell.teacher_key,
        "teacher_source": cell.shown_source,
        "has_one_view": cell.has_one_view,
        "seed": cell.seed,
        "epochs": cell.epochs,
        "role": "baseline" if cell.train_type == BASELINE else "control" if cell.method.control_of else "method",
        "control_of": cell.method.control_of,
        "signal": cell.method.signal,
        "is_cost_run": cell.is_cost_run,
    }


def numbers(run: FinishedRun | None, epoch: str) -> dict[str, Any]:
    """Return the numbers of a run and of one of its epochs; None where the run is missing."""
    if run is None:
        return dict.fromkeys([*SCORES, *NUMBERS])
    chosen = run.metrics.chosen(epoch)
    return {name: number(chosen) for name, number in SCORES.items()} | {
        name: number(run) for name, number in NUMBERS.items()
    }


def teacher_numbers(cell: Cell, stats: TeacherStats) -> dict[str, Any]:
    """Return what the teacher's signal cost once, and the accuracy of the teacher's own head."""
    extraction, head = stats.used(cell), stats.head(cell) if needs_full(cell) else None
    return {
        "extraction_seconds": extraction.seconds if extraction else None,
        "extraction_passes": extraction.forward_passes if extraction else None,
        "embeddings_disk_bytes": extraction.disk_bytes if extraction else None,
        "extraction_device": extraction.device if extraction else None,
        "teacher_head": head.name if head else None,
        "teacher_head_top1": head.top1 if head else None,
        "teacher_head_top5": head.top5 if head else None,
        "needs_head": needs_head(cell) and len(cell.by_teacher) == 1,
    }
