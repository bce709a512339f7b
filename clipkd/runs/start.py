"""Trainings started: one student alone, or several in processes or stacks."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import torch

from clipkd.core.artifacts import read_manifest
from clipkd.core.environment import cores
from clipkd.core.errors import DataError, Interrupted, MachineError
from clipkd.runs import workers
from clipkd.runs.assignment import Assignment, train_in_stacks
from clipkd.runs.interruption import heeded
from clipkd.runs.ranks import join, leave
from clipkd.runs.record import METRICS
from clipkd.runs.training import train
from clipkd.spec.identities import agree, run_identity

STACK = 8
"""Students that a GPU computes at once by default."""


def train_several(
    assignments: Sequence[Assignment], processes: int | None, stack: int | None, threads: int | None
) -> None:
    """Train students in several processes, or in stacks in this one; print the folder of each complete run.

    Raises:
        SomeFailed: some failed; the others are complete.
        Interrupted: a signal came; every training is saved.
    """
    on_gpu = assignments[0].device.startswith("cuda")
    one_process = on_gpu or stack not in (None, 1)
    count = 1 if one_process else processes or cores()
    try:
        if count > 1:
            workers.train_in_processes(assignments, count, threads)
        else:
            train_in_stacks(assignments, stack or (STACK if on_gpu else 1))
    finally:
        for one in assignments:
            if is_complete(one):
                print(one.folder)


def is_complete(one: Assignment) -> bool:
    """Return whether a folder holds the result of this very assignment, not that of a run that it was to replace."""
    if not (one.folder / METRICS).exists():
        return False
    with suppress(DataError):
        return agree(read_manifest(one.folder)["identity"], run_identity(one.cell, one.numbers, one.layout, ""))
    return False


def train_alone(assignment: Assignment) -> None:
    """Train one student and print its folder; processes that torchrun started train it together."""
    expect_signals(assignment)
    ranks = join(torch.device(assignment.device))
    try:
        error = assignment.prepare() if ranks.is_first else None
        if error:
            raise error
        ranks.wait()
        train(*assignment.open(ranks.count), ranks)
    except RuntimeError as error:  # torch's, where a message to another rank fails
        if ranks.count == 1 or not is_broken(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun stops who is left: first, say why
        dead = ", ".join(ranks.dead()) or "another rank, on another machine,"
        raise MachineError(
            f"{dead} ended in the middle of the training: what it said, if anything, is above; where it was killed, "
            "memory may have run out. The same command resumes from the last save"
        ) from None
    finally:
        leave()
    if ranks.is_first:
        print(assignment.folder)


def is_broken(error: RuntimeError) -> bool:
    """Return whether an error is that of a connection between ranks."""
    words = ("connection closed by peer", "connection reset by peer", "broken pipe", "nccl", "socket", "timed out")
    return any(word in str(error).lower() for word in words)


def expect_signals(assignment: Assignment) -> None:
    """Let SIGTERM, SIGUSR1 and SIGHUP stop the work around the training; once the result is complete, they are ignored.

    A scheduler deletes the output of a failed job: a signal in the last second of a finished training must not make
    it fail. (During training, the training itself handles them.)
    """
    result = assignment.folder / METRICS
    before = result.stat().st_mtime_ns if result.exists() else None

    def stop(number: int, frame: FrameType | None) -> None:
        is_complete = result.exists() and result.stat().st_mtime_ns != before
        if not is_complete:
            raise Interrupted(signal.Signals(number), f"stopped by {signal.Signals(number).name} outside the training")

    for number in heeded():
        if number != signal.SIGINT:
            signal.signal(number, stop)
