"""A run that fails: its loss or a gradient is not finite, or what it reads was changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clipkd.core.errors import DataError
from clipkd.data.batches import Batch
from clipkd.embeddings.teacher import not_finite
from clipkd.runs.evaluation import NotFiniteError
from clipkd.runs.folder import FAILED
from clipkd.runs.run import Run


def is_finite(run: Run) -> bool:
    """Return whether loss and gradients were finite in every step of the epoch; mark a run where not as failed.

    Ask before each save: a state after such a step must not be resumed. Waits for the device.
    """
    bad = run.guard.first_bad_step()
    if bad is not None and run.failure is None:
        run.failure = mark_failed(run, bad)
    return run.failure is None


def has_sound_inputs(run: Run) -> bool:
    """Return whether the files that the run reads are those that it began with; mark a run where not as failed.

    Ask before each save, as the steps since the last one may have read other bytes. All ranks agree.
    """
    error = None
    try:
        run.job.refuse_changed_inputs()
    except DataError as found:
        error = found
    (is_changed,) = run.ranks.maximum(error is not None)
    if is_changed and run.failure is None:
        run.failure = error or DataError(f"{run.cell.folder}: another rank found a changed file")
    return run.failure is None


@contextmanager
def failing(run: Run, epoch: int) -> Iterator[None]:
    """Mark a run as failed where its student, measured after an epoch, has a loss that is not finite."""
    try:
        yield
    except NotFiniteError as error:
        message = f"{error}, after epoch {epoch}"
        run.folder.fail({"message": message, "epoch": epoch})
        run.failure = DataError(f"{run.cell.folder}: {message}; lower --learning-rate?")


def mark_failed(run: Run, step: int) -> DataError:
    """Write which step of the epoch (from 0) was not finite, and on which images; return what to tell the user."""
    generator = torch.Generator()
    generator.set_state(run.epoch.order)
    size, drop_last = run.numbers.batch_size, run.recipe.drop_last
    batch = next(iter(run.batches.epoch(size, drop_last, generator, step, shown=run.job.images)))
    rows = batch.rows.tolist()
    number = run.epoch.number
    message = f"loss or gradient is not finite in epoch {number}, step {step + 1} of {run.steps_per_epoch}"
    run.folder.fail({"message": message, "epoch": number, "step": step + 1, "rows": rows})
    return DataError(
        f"{run.cell.folder}: {message}, training images {', '.join(map(str, rows[:8]))}, ... (all in "
        f"{run.folder.path / FAILED}); the weights were left as they were before that step; "
        f"{teacher_overflow(run, batch) or 'lower --learning-rate?'}"
    )


def teacher_overflow(run: Run, batch: Batch) -> str:
    """Return what to say where it is a live teacher that gives numbers that are not finite for a batch, or ""."""
    teacher = run.source.teacher
    if teacher is None:
        return ""
    targets = run.source(batch)
    found = targets if isinstance(targets, tuple) else (targets,)
    if all(target is None or bool(target.isfinite().all()) for target in found):
        return ""
    return not_finite(teacher.spec, teacher.precision)
