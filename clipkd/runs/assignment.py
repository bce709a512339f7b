"""An assignment: a cell to train, and all that a process needs for it, as plain values that can be pickled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clipkd.core.disk import explained
from clipkd.core.errors import ClipkdError, Interrupted, MachineError, SomeFailed
from clipkd.embeddings import prepare
from clipkd.plugins.students import StudentSpec
from clipkd.runs.folder import RunFolder
from clipkd.runs.interruption import Interruption, stopping
from clipkd.runs.job import Job, open_job
from clipkd.runs.training import train_together
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters


@dataclass(frozen=True)
class Assignment:
    """One student to train, into one folder."""

    cell: Cell
    numbers: Hyperparameters
    layout: Layout
    device: str
    folder: Path
    checkpoint: Path | None = None
    embed_batch_size: int = prepare.BATCH_SIZE
    overwrite: bool = True
    """Whether another run in the folder may be replaced."""

    @property
    def name(self) -> str:
        return self.cell.folder

    def prepare(self) -> ClipkdError | None:
        """Make what the training reads and is not there yet; return why that failed.

        Raises:
            Interrupted: a signal came, which is meant for all students.
        """
        try:
            prepare.for_training(self.cell, self.layout, torch.device(self.device), self.embed_batch_size)
        except Interrupted:
            raise
        except ClipkdError as error:
            return error
        except OSError as error:
            return MachineError(explained(error))
        return None

    def run_folder(self) -> RunFolder:
        """Open or make the folder that the training writes; InputError where that can't be."""
        return RunFolder(self.folder, self.checkpoint, may_replace=self.overwrite)

    def open(self, ranks: int = 1) -> tuple[Job, RunFolder]:
        """Open what the training reads, and the folder that it writes."""
        job = open_job(self.cell, self.numbers, self.layout, torch.device(self.device), ranks)
        return job, self.run_folder()


def train_in_stacks(assignments: Sequence[Assignment], size: int) -> None:
    """Train the assignments' students in this process, up to `size` of equal shape at once.

    Raises:
        SomeFailed: some failed; the others are complete.
        Interrupted: a signal came; every training is saved.
    """
    failures: dict[str, ClipkdError] = {}
    ready: list[Assignment] = []
    with stopping():
        for one in assignments:
            if error := one.prepare():
                failures[one.name] = error
            else:
                ready.append(one)
    with Interruption() as interruption:
        for stack in stacks(ready, size):
            if interruption.signal:  # it came after the last step of the stack before
                raise interruption.error("run the same command to train the remaining students")
            opened: dict[str, tuple[Job, RunFolder]] = {}
            for one in stack:
                try:
                    opened[one.name] = one.open()
                except ClipkdError as error:
                    failures[one.name] = error
            outcomes = train_together(list(opened.values()), interruption=interruption)
            failures |= {
                name: found for name, found in zip(opened, outcomes, strict=True) if isinstance(found, ClipkdError)
            }
    if failures:
        raise SomeFailed(failures, len(assignments))


def stacks(assignments: Sequence[Assignment], size: int) -> Iterator[list[Assignment]]:
    """Yield the assignments in lots of up to `size` that can be computed at once, in their order."""
    lots: dict[object, list[Assignment]] = {}
    for one in assignments:
        lots.setdefault(shared(one), []).append(one)
    for lot in lots.values():
        for start in range(0, len(lot), size):
            yield lot[start : start + size]


def shared(assignment: Assignment) -> object:
    """Return what assignments that are computed at once have in common: all but train type, teacher and seed.

    A teacher in the loop is a pass of its own in each step: such a run is trained alone, and so is a student that
    is not ours.
    """
    cell = assignment.cell
    if cell.teacher_source in {"live", "lazy"} or not isinstance(cell.student_spec, StudentSpec):
        return assignment
    return replace(cell, teacher="", train_type="", seed=0), assignment.numbers, assignment.layout, assignment.device
