"""A group: runs that are trained side by side, step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipkd.core.progress import say
from clipkd.runs.interruption import Interruption
from clipkd.runs.step import Step

if TYPE_CHECKING:
    from clipkd.runs.run import Run


def advance(runs: Sequence[Run], interruption: Interruption) -> None:
    """Train runs to their ends. One that fails leaves the others going on.

    Those that stand at the same step go together. Where saved states are of different steps, those behind
    catch up first.

    Raises:
        Interrupted: a signal came, and every run is saved.
    """
    group: list[Run] = []
    while going := [run for run in runs if run.is_going_on]:
        here = min(run.position for run in going)
        together = [run for run in going if run.position == here]
        if together != group:
            group, step = together, Step(together)
            if len(runs) > 1:
                say(f"{len(group)} students side by side, from epoch {here[0]}, step {here[1]}")
        ahead = [run.position[1] for run in going if run.position[0] == here[0] and run.position != here]
        take_steps(step, min([group[0].steps_per_epoch, *ahead]), interruption)
        for run in group:
            if run.epoch.step == run.steps_per_epoch:
                run.close_epoch()
                if run.epoch.number > run.numbers.epochs:
                    run.finish()


def take_steps(step: Step, until: int, interruption: Interruption) -> None:
    """Take the steps of a group's epoch up to number `until`; save where it is time or a signal came.

    Raises:
        Interrupted: a signal came, and every run is saved.
    """
    group = step.runs
    start = time.perf_counter()

    def share_time() -> None:
        """Add the time since the last call to the runs' epochs, to each its share."""
        nonlocal start
        now = time.perf_counter()
        for run in group:
            run.epoch.seconds += (now - start) / len(group)
            run.companions = max(run.companions, len(group))
        start = now

    # To its end, also where no step is left: the next epoch's order is drawn from where this one's ended.
    for batches in zip(*(run.rest_of_epoch() for run in group), strict=True):
        step(batches)
        if any(run.is_interrupted_or_due() for run in group):
            share_time()
            for run in group:
                run.save()
            start = time.perf_counter()  # saving is no training
            if all(run.failure for run in group):
                return
            if interruption.signal:
                raise interruption.error(saved(group))
        if group[0].epoch.step == until < group[0].steps_per_epoch:
            break
    for run in group:
        run.is_finite()  # waits for the device: what follows would otherwise be taken for a part of the training
    share_time()


def saved(group: Sequence[Run]) -> str:
    """Return where runs are saved, for the user."""
    first = group[0]
    more = f" and {len(group) - 1} beside it" if len(group) > 1 else ""
    are = "are" if more else "is"
    return (
        f"{first.cell.folder}{more} {are} saved at epoch {first.epoch.number}, step {first.epoch.step} of "
        f"{first.steps_per_epoch}; the same command goes on from there"
    )
