"""Which status command works on this site. Snakemake's plugin forgets all jobs where it takes one that does not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from clipkd.errors import MachineError
from clipkd.slurm.commands import ask
from clipkd.slurm.site import seconds

LONGEST_PAUSE = 180
"""Seconds: the plugin asks at least this often."""
FACTOR = 3
"""Below this many first pauses of MinJobAge the plugin takes sacct, whether it works or not."""


@dataclass(frozen=True)
class Status:
    """The status command to use, and why."""

    command: str
    reason: str


def choose(settings: dict[str, str], first_pause: int) -> Status:
    """Return the status command that works.

    Args:
        settings: the controller's.
        first_pause: seconds before the plugin first asks for the status of its jobs.

    Raises:
        MachineError: none works; jobs would end unseen and the workflow would wait for ever.
    """
    trouble = accounting_trouble(settings)
    if not trouble:
        return Status("sacct", "accounting works")
    ask("squeue", "--noheader", "--states=all", "--name=clipkd-none")
    age = seconds(settings.get("MinJobAge", "0"))
    needed = max(FACTOR * first_pause, LONGEST_PAUSE + 30)
    if age < needed:
        raise MachineError(
            f"no command here tells for sure how a job ended: {trouble}, and squeue forgets a finished job after "
            f"{age} s (MinJobAge), while Snakemake may ask only every {LONGEST_PAUSE} s; ask the administrators for "
            f"accounting (slurmdbd) or for MinJobAge={max(needed, 300)}"
        )
    return Status("squeue", f"{trouble}; squeue remembers finished jobs for {age} s")


def accounting_trouble(settings: dict[str, str]) -> str:
    """Return why `sacct` can't be used; "" where it can."""
    if settings.get("AccountingStorageType", "").endswith("/none"):
        return "accounting is off"
    start = f"{datetime.now() - timedelta(hours=1):%Y-%m-%dT%H:%M}"
    try:
        ask("sacct", "-X", "--noheader", "--parsable2", "--format=JobIDRaw,State", f"--starttime={start}", "--name=none")
    except MachineError as error:
        return f"accounting gives no answer ({error})"
    return ""
