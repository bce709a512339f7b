"""The main process of a workflow's folder: one at a time, and what it takes to go on after it died.

While it lives it holds the lock `.snakemake/.clipkd-main` (clipkd/core/lock.py); `.snakemake/clipkd-main.json` says
how it was called. Snakemake's own lock says neither who holds it nor whether he lives.
"""

from __future__ import annotations

import atexit
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from clipkd.core import lock
from clipkd.core.disk import DiskFull
from clipkd.core.errors import InputError
from clipkd.core.files import write_json

FILE = Path(".snakemake/clipkd-main.json")
LOCK = ".clipkd-main"
INHERITED = "CLIPKD_MAIN_LOCK"
"""Environment variable: the open, locked file that `clipkd resume` hands to the Snakemake it becomes."""


@dataclass(frozen=True)
class Started:
    """How a main process was started."""

    arguments: list[str]
    """Of snakemake."""
    executor: str


def hold(folder: Path, started: Started) -> bool:
    """Become the folder's main process, until this process ends; return whether it goes on with an earlier one's work.

    Raises:
        MachineError: another one lives, or may live; names it.
    """
    given = inherited(folder)
    held = take(folder) if given is None else given
    os.set_inheritable(held.descriptor, False)
    write_json(folder / FILE, asdict(started))
    atexit.register(held.release)
    return given is not None


def take(folder: Path) -> lock.Lock:
    """Take the lock of a folder's main process.

    Raises:
        Busy: another main process lives, or may live; names it.
    """
    place = folder / FILE.parent
    place.mkdir(exist_ok=True)
    try:
        return lock.take(place, LOCK)
    except lock.Held as held:
        advice = held.advice.partition(", remove")[0] + ", `clipkd resume --after-restart`"
        raise lock.Busy(
            f"{folder.resolve()} has a main process already: {held.by}; one at a time"
            + (advice if held.is_earlier_boot else held.advice)
        ) from None


def another_runs(folder: Path) -> bool:
    """Return whether a folder has a main process that is not this one."""
    if INHERITED in os.environ:
        return False
    try:
        take(folder).release()
    except lock.Busy:
        return True
    except DiskFull:  # then no lock can be written, and the one before says it
        return lock.is_held(folder / FILE.parent, LOCK)
    return False


def inherited(folder: Path) -> lock.Lock | None:
    """Return the lock that `clipkd resume` left open for the Snakemake that it became; None without one."""
    text = os.environ.pop(INHERITED, "")
    path = lock.newest(folder / FILE.parent, LOCK) if text.isdigit() else None
    if path is None:
        return None
    try:
        there, named = os.fstat(int(text)), os.stat(path)
    except OSError:
        return None
    is_ours = (there.st_dev, there.st_ino) == (named.st_dev, named.st_ino)
    return lock.Lock(path, int(text)) if is_ours else None


def last_started(folder: Path) -> Started:
    """Return how the folder's last main process was started.

    Raises:
        InputError: there was none.
    """
    path = folder / FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Started([str(argument) for argument in told["arguments"]], str(told["executor"]))
    except FileNotFoundError:
        raise InputError(
            f"nothing to resume: no workflow was started in {folder.resolve()} (or it stopped before its first job); "
            "start it with `make demo`, `make grid` or `snakemake ...` (with --unlock first where it says that the "
            "directory is locked); one that was started with --directory is resumed in that folder"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: start the workflow with the command it was started with") from None
