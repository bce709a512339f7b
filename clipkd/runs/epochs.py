"""The end of an epoch: evaluation, selection of the best student, the history and its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from clipkd.core import progress
from clipkd.plugins.methods import LABELLED, TEACHER_TOP1
from clipkd.runs.evaluation import score, score_of, sums_of_runs
from clipkd.runs.failure import failing, is_finite
from clipkd.runs.record import EpochRecord, Score
from clipkd.runs.run import Epoch, Run
from clipkd.runs.stack import OneStudent, Stack

AT_ONCE = ("cuda",)
"""Devices that evaluate a stack's students at once; a CPU takes twice as long for it (docs/performance.md)."""


def close_epochs(runs: Sequence[Run], students: Stack | OneStudent) -> None:
    """End an epoch of runs that took its last step together; a stack's students are evaluated together too."""
    first = runs[0]
    # How many images are held out for validation depends on how many labels a run may see.
    are_alike = len({(run.cell.selection, len(run.job.labelled.validation)) for run in runs}) == 1
    if isinstance(students, Stack) and are_alike and first.cell.has_labels and first.job.device.type in AT_ONCE:
        for run, sums in zip(runs, sums_of_runs(runs, students, first.cell.selection), strict=True):
            close_epoch(run, partial(score_of, *sums))
    else:
        for run in runs:
            close_epoch(run, partial(score, run, run.cell.selection))


def close_epoch(run: Run, measure: Callable[[], Score]) -> None:
    """Evaluate after an epoch's last step, keep the student if it is the best so far, begin the next epoch."""
    if not is_finite(run):
        return
    epoch = run.epoch
    means = {part: total.item() / epoch.count for part, total in epoch.totals.items()}
    if labelled := means.pop(LABELLED, 0):
        means[TEACHER_TOP1] /= labelled
    elif TEACHER_TOP1 in means:
        means[TEACHER_TOP1] = 0.0
    found = None
    if run.cell.has_labels:
        with failing(run, epoch.number):
            found = measure()
        if run.failure:
            return
    record = EpochRecord(epoch=epoch.number, learning_rate=epoch.rate, train=means, val=found, split=run.cell.selection)
    run.history.append(record)
    run.seconds.append(epoch.seconds)
    (passes,) = run.ranks.sum([epoch.passes])
    run.passes += round(passes)
    if run.job.kept_by == "last" or is_best(found, run.best):
        run.best = epoch.number, found
        run.selected_student = {name: tensor.clone() for name, tensor in run.student.state_dict().items()}
    report(run, record)
    for total in epoch.totals.values():
        total.zero_()  # in place, where a CUDA graph adds to it
    run.epoch = Epoch(epoch.number + 1, run.generator.get_state(), totals=epoch.totals)


def is_best(found: Score | None, best: tuple[int, Score | None] | None) -> bool:
    """Return whether an epoch is the one to keep; without a score, the last one is."""
    return best is None or found is None or best[1] is None or found.top1 > best[1].top1


def report(run: Run, record: EpochRecord) -> None:
    """Draw an epoch's point in each curve, and print some epochs' numbers: all of them to a terminal."""
    loss, found, number = record.train["loss"], record.val, record.epoch
    if run.curves is not None:
        scored = {"Val loss": found.loss, "Val acc.": found.top1} if found else {}
        run.curves.add(number, {"Train loss": loss, **scored})
    if number % max(1, run.numbers.epochs // 20) == 0 or number == 1 or sys.stderr.isatty():
        name = f"{run.cell.folder}: " if run.largest_group > 1 or progress.is_one_of_several else ""
        teacher = record.train.get(TEACHER_TOP1)
        taught = "" if teacher is None else f", teacher top-1 {teacher:.1%} on the views it taught"
        reached = f", {record.split} loss {found.loss:.4f}, top-1 {found.top1:.1%}" if found else ""
        where = f"{name}epoch {number}/{run.numbers.epochs}"
        run.say(f"{where}: train loss {loss:.4f}{reached}{taught}, {run.seconds[-1]:.1f} s")
