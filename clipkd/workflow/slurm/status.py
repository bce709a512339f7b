"""The state of a workflow's jobs, so that none ends unseen: `python -m clipkd.workflow.slurm.status RUN`.

Snakemake's SLURM plugin asks either `sacct` or `squeue`, and waits for ever for a job whose state it does not
understand: cancelled (`CANCELLED by 0` in accounting), preempted for good, or no longer known to squeue. This asks
both, and prints one plain state a job, as the plugin reads them: `<job>|<state>`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from clipkd.core.errors import ClipkdError, MachineError
from clipkd.core.files import write_json
from clipkd.workflow.slurm import site
from clipkd.workflow.slurm.commands import ask

LONGEST_PAUSE = 180
"""Seconds: the plugin asks at least this often."""
SEEN = Path(".snakemake/clipkd-jobs")
"""Which jobs of a run squeue has shown."""
VANISHED = "UNKNOWN"
"""The plugin takes this as ended, and looks at the outputs."""
DAYS = 2


@dataclass(frozen=True)
class Source:
    """Where the state of a finished job can be read."""

    command: str
    reason: str


def source(settings: dict[str, str]) -> Source:
    """Return what tells how a job ended.

    Raises:
        MachineError: nothing does for sure; jobs would end unseen and the workflow would wait for ever.
    """
    trouble = accounting_trouble(settings)
    if not trouble:
        return Source("sacct", "accounting works")
    ask("squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "--name=clipkd-none")
    age, needed = site.seconds(settings.get("MinJobAge", "0")), LONGEST_PAUSE + 30
    if age < needed:
        raise MachineError(
            f"nothing here tells for sure how a job ended: {trouble}, and squeue forgets a finished job after {age} s "
            f"(MinJobAge), while Snakemake may ask only every {LONGEST_PAUSE} s; ask the administrators for accounting "
            "(slurmdbd) or for MinJobAge=300"
        )
    return Source("squeue", f"{trouble}; squeue remembers finished jobs for {age} s")


def accounting_trouble(settings: dict[str, str]) -> str:
    """Return why `sacct` can't be used; "" where it can."""
    if settings.get("AccountingStorageType", "").endswith("/none"):
        return "accounting is off"
    try:
        from_sacct("clipkd-none")
    except MachineError as error:
        return f"accounting gives no answer ({error})"
    return ""


def states(run: str, folder: Path = Path()) -> dict[str, str]:
    """Return job -> state of a run's jobs.

    squeue is up to date, accounting knows the jobs that squeue has forgotten; one of them suffices, where the
    other fails. Where there is no accounting, a job that squeue showed once and shows no more has ended.

    Raises:
        MachineError: neither answers.
    """
    answers: dict[str, dict[str, str]] = {}
    failures: dict[str, MachineError] = {}
    for command, look in (("squeue", from_squeue), ("sacct", from_sacct)):
        try:
            answers[command] = look(run)
        except MachineError as error:
            failures[command] = error
    if not answers:
        raise failures["squeue"]
    known = answers.get("sacct", {}) | answers.get("squeue", {})
    if "squeue" in answers and "accounting storage is disabled" in str(failures.get("sacct")).lower():
        known = vanished(run, answers["squeue"], folder) | known
    return final(known)


def from_squeue(run: str) -> dict[str, str]:
    """Return job -> state; a task of a job array is `<array>_<task>`, also one that waits.

    (Where the plugin finds no state of a task, it takes that of the array's own number: another task's.)
    """
    mine = f"--user={os.getuid()}"  # a busy controller lists the jobs of thousands
    return parsed(ask("squeue", "--noheader", mine, "--array", "--states=all", "--format=%i|%T", f"--name={run}"))


def from_sacct(run: str) -> dict[str, str]:
    start = f"{datetime.now() - timedelta(days=DAYS):%Y-%m-%dT%H:00}"
    flags = ("-X", "--noheader", "--parsable2", "--format=JobID,State")
    return parsed(ask("sacct", *flags, f"--user={os.getuid()}", f"--starttime={start}", f"--name={run}"))


def parsed(text: str) -> dict[str, str]:
    """Return job -> the first word of its state: accounting writes `CANCELLED by <user>`."""
    pairs = [line.split("|", 1) for line in text.splitlines() if "|" in line]
    return {job.strip(): state.split()[0].rstrip("+") for job, state in pairs if state.strip()}


def vanished(run: str, queued: Iterable[str], folder: Path) -> dict[str, str]:
    """Return the jobs that squeue once showed and shows no more, as ended; remember those that it shows."""
    path = folder / SEEN / f"{run}.json"
    try:
        seen = set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        seen = set()
    now = set(queued)
    if now - seen:
        write_json(path, sorted(seen | now))
    return dict.fromkeys(seen - now, VANISHED)


def final(known: dict[str, str]) -> dict[str, str]:
    """Return the states, a preempted job as cancelled where SLURM does not put it back into the queue."""
    preempted = [job for job, state in known.items() if state == "PREEMPTED"]
    if preempted and any("CANCEL" in found.preempt_mode.upper() for found in site.partitions().values()):
        known = known | dict.fromkeys(preempted, "CANCELLED")
    return known


def main(run: str) -> int:
    """Print the states; return 1 where SLURM gives no answer (the plugin then asks again)."""
    try:
        for job, state in states(run).items():
            print(f"{job}|{state}")
    except ClipkdError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
