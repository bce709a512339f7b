"""The training loop, one for every method: steps, epochs, and groups of runs that take their steps together."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from clipkd.core.progress import say
from clipkd.data.batches import Batch
from clipkd.plugins.students._heads import clamp_logit_scales
from clipkd.plugins.students._vit import Student
from clipkd.runs import cuda_graph
from clipkd.runs.checkpointing import is_save_due, save
from clipkd.runs.completion import complete
from clipkd.runs.cuda_graph import GraphedStep, StepInputs
from clipkd.runs.epochs import close_epochs
from clipkd.runs.failure import is_finite
from clipkd.runs.finite_guard import FiniteGuards
from clipkd.runs.interruption import Interruption
from clipkd.runs.objective import Objective, Objectives
from clipkd.runs.precision import autocast
from clipkd.runs.run import Run, add_losses
from clipkd.runs.stack import OneStudent, Stack, stackable_shape


class Group:
    """Runs that take their steps together: one, or several whose students form a stack."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        first = runs[0]
        self.device, self.precision = first.job.device, first.numbers.precision
        students = [cast(Student, run.student) for run in runs]
        self.students = Stack(students) if len(runs) > 1 else OneStudent(first.student, first.ranks)
        self.objectives = Objectives(
            [Objective(run.cell.method, run.student, run.recipe, run.source.shares) for run in runs]
        )
        self.guards = FiniteGuards([run.guard for run in runs])
        self.graph: GraphedStep | None = None
        # Other libraries' students may wait for the device, and ranks exchange messages: neither can be captured.
        can_capture = self.device.type == "cuda" and first.ranks.count == 1 and stackable_shape(first.student)
        if can_capture and cuda_graph.is_allowed():
            stream = cuda_graph.SideStream([run.noise for run in runs])
            # Without a circle of references, the graph's memory is free as soon as the group is done.
            work = partial(update_students, weakref.proxy(self))
            self.graph = GraphedStep(work, first.numbers.batch_size, stream.captured, stream.run)


def train_step(group: Group, batches: Sequence[Batch]) -> None:
    """Take one step of every run in the group, each on its own batch."""
    step_inputs = []
    for run, batch in zip(group.runs, batches, strict=True):
        run.set_learning_rate()
        # Outside the graph: stored targets are read from disk, and a live teacher may be any network.
        step_inputs.append(StepInputs(batch.inputs, batch.labels, run.teacher_targets(batch)))
    if group.graph is not None:
        group.graph(step_inputs)
    else:
        update_students(group, step_inputs)
    for run, batch in zip(group.runs, batches, strict=True):
        run.epoch.step += 1
        run.epoch.count += len(batch.labels)


def update_students(group: Group, step_inputs: Sequence[StepInputs]) -> None:
    """Do the device's part of a step.

    A GPU captures this once and replays it. So nothing here may read a number from the device, branch on one, or put
    what the next step needs at a new address.
    """
    runs, students = group.runs, group.students
    with autocast(group.precision, group.device):
        outputs = students([one.inputs for one in step_inputs])
    losses = group.objectives(
        outputs, [one.labels for one in step_inputs], [one.teacher_targets for one in step_inputs]
    )
    for run in runs:
        run.optimiser.zero_grad()
    students.zero_grad()
    # One backward pass for all: no loss depends on another student's weights, so the sum keeps gradients apart.
    torch.stack([parts["loss"] for parts in losses]).sum().backward()
    students.share_gradients()
    for run in runs:
        run.ranks.average_gradients(run.student.parameters())
    # After the averaging, so that all ranks see the same; before the update, which it must be able to stop.
    group.guards.check([parts["loss"] for parts in losses], [gradients(run.student) for run in runs])
    for run in runs:
        run.optimiser.step()
    clamp_logit_scales([run.student for run in runs])
    add_losses([run.epoch for run in runs], losses, len(step_inputs[0].labels))


def gradients(student: nn.Module) -> list[Tensor]:
    """Return the gradients that a backward pass has left in a student's parameters."""
    return [parameter.grad for parameter in student.parameters() if parameter.grad is not None]


def train_epoch(group: Group, until: int, interruption: Interruption) -> None:
    """Take the steps of the group's epoch up to number `until`; save when it is time or a signal came.

    Raises:
        Interrupted: a signal came, and every run is saved.
    """
    runs = group.runs
    start = time.perf_counter()

    def share_time() -> None:
        """Add the time since the last call to the runs' epochs, to each an equal share."""
        nonlocal start
        now = time.perf_counter()
        for run in runs:
            run.epoch.seconds += (now - start) / len(runs)
            run.largest_group = max(run.largest_group, len(runs))
        start = now

    # Start the batches even if no step is left: the next epoch's order is drawn from where this one's ended.
    for batches in zip(*(run.rest_of_epoch() for run in runs), strict=True):
        train_step(group, batches)
        if any(is_save_due(run, interruption) for run in runs):
            wait_for_device(runs)
            share_time()
            for run in runs:
                save(run)
            share_saves(runs)
            start = time.perf_counter()  # saving is not training time
            if all(run.failure for run in runs):
                return
            if interruption.signal:
                raise interruption.error(saved(runs))
        if runs[0].epoch.step == until < runs[0].steps_per_epoch:
            break
    wait_for_device(runs)
    share_time()


def share_saves(runs: Sequence[Run]) -> None:
    """Note for each run what saving all of them took: they are saved together, when the first one's time has come."""
    saved = [run for run in runs if not run.failure]
    spent, now = sum(run.save_seconds for run in saved), time.monotonic()
    for run in saved:
        run.save_seconds, run.saved_at = spent, now


def wait_for_device(runs: Sequence[Run]) -> None:
    """Wait for the steps that the device has been given, which the clock must not miss."""
    for run in runs:
        is_finite(run)


def train_runs(runs: Sequence[Run], interruption: Interruption) -> None:
    """Train runs to their ends. If one fails, the others continue.

    Runs at the same step form a group. Where saved states are of different steps, those behind catch up first.

    Raises:
        Interrupted: a signal came, and every run is saved.
    """
    group: Group | None = None
    while unfinished := [run for run in runs if run.is_unfinished]:
        here = min(run.position for run in unfinished)
        together = [run for run in unfinished if run.position == here]
        if group is None or together != group.runs:
            group = Group(together)
            if len(runs) > 1:
                say(f"{len(together)} students side by side, from epoch {here[0]}, step {here[1]}")
        ahead = [run.position[1] for run in unfinished if run.position[0] == here[0] and run.position != here]
        train_epoch(group, min([together[0].steps_per_epoch, *ahead]), interruption)
        if together[0].epoch.step == together[0].steps_per_epoch:
            close_epochs(together, group.students)
            for run in together:
                if run.epoch.number > run.numbers.epochs:
                    complete(run)


def saved(runs: Sequence[Run]) -> str:
    """Return where runs are saved, for the user."""
    first = runs[0]
    more = f" and {len(runs) - 1} beside it" if len(runs) > 1 else ""
    are = "are" if more else "is"
    return (
        f"{first.cell.folder}{more} {are} saved at epoch {first.epoch.number}, step {first.epoch.step} of "
        f"{first.steps_per_epoch}; run the same command to continue from there"
    )
