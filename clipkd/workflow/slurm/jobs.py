"""Jobs of this workflow that the cluster still has, whoever submitted them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipkd.core.errors import MachineError
from clipkd.core.progress import say
from clipkd.core.words import counted, verb
from clipkd.workflow.slurm.commands import ask

PREFIX = "clipkd_"
"""How the names of our jobs begin: `slurm-jobname-prefix` in profiles/slurm."""
SECONDS_TO_END, PAUSE = 900.0, 2.0
AT_ONCE = 500
"""Jobs in one call of scancel."""


@dataclass(frozen=True)
class Job:
    """A job that waits, runs or ends."""

    number: str
    name: str
    state: str
    folder: str
    comment: str
    """The rule and the cell, as Snakemake's plugin wrote them."""

    @property
    def is_running(self) -> bool:
        return self.state not in {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}


def jobs_of(folder: Path) -> list[Job]:
    """Return this user's jobs of a workflow's folder that are not over."""
    said = ask("squeue", "--noheader", f"--user={os.getuid()}", "--format=%i|%j|%T|%Z|%k")
    found = [Job(*line.split("|", 4)) for line in said.splitlines() if line.count("|") >= 4]
    here = folder.resolve()
    return [job for job in found if job.name.startswith(PREFIX) and Path(job.folder).resolve() == here]


def end(folder: Path, let_finish: bool, seconds: float = SECONDS_TO_END) -> int:
    """End the jobs that an earlier main process left, and wait until they are gone; return how many there were.

    SLURM sends running jobs SIGTERM: a training saves itself and goes on later.

    Args:
        folder: the workflow's.
        let_finish: wait for the running ones, however long they take; only those that wait are cancelled.
        seconds: how long to wait for jobs that were cancelled.

    Raises:
        MachineError: SLURM gives no answer, or the jobs don't end.
    """
    left = settled(lambda: jobs_of(folder))
    doomed = [job for job in left if not (let_finish and job.is_running)]
    for job in left:
        say(f"SLURM job {job.number} ({job.comment}) {'is cancelled' if job in doomed else 'may finish'}: {job.state}")
    for start in range(0, len(doomed), AT_ONCE):
        ask("scancel", *(job.number for job in doomed[start : start + AT_ONCE]))
    limit = time.monotonic() + seconds
    while there := jobs_of(folder):
        if time.monotonic() > limit and not let_finish:
            numbers = ", ".join(job.number for job in there[:8])
            raise MachineError(
                f"{counted(len(there), 'SLURM job')} of this folder {verb(len(there))} still there: {numbers}; "
                "look at them with squeue, then try again"
            )
        time.sleep(PAUSE)
    return len(left)


def settled(look: Callable[[], list[Job]]) -> list[Job]:
    """Return the jobs once two looks agree: a submission may have been under way when its main process died."""
    before = look()
    while True:
        time.sleep(PAUSE)
        now = look()
        if {job.number for job in now} == {job.number for job in before}:
            return now
        before = now
