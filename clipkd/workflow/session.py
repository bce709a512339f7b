"""The main process of a workflow's folder: one at a time, and what it takes to go on after it died.

While it lives it holds the kernel's lock on `.snakemake/clipkd-main.json`, which also says how it was called.
Snakemake's own lock says neither who holds it nor whether he lives.
"""

from __future__ import annotations

import atexit
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipkd.core.errors import InputError, MachineError
from clipkd.core.lock import Holder, is_dead, locked, put, this_process

FILE = Path(".snakemake/clipkd-main.json")
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
    descriptor = take(folder) if given is None else given
    os.set_inheritable(descriptor, False)
    write(descriptor, started, this_process())
    atexit.register(write, descriptor, started, None)
    return given is not None


def take(folder: Path) -> int:
    """Return the open, locked file.

    Raises:
        MachineError: another main process lives, or may live; names it.
    """
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    is_ours = locked(descriptor)
    other = holder_of(descriptor)
    if not is_ours or (other is not None and not is_dead(other)):
        os.close(descriptor)
        advice = f"; where it is certain that it no longer runs, remove {path}" if is_ours else ""
        raise MachineError(
            f"{folder.resolve()} has a main process already: {other or 'another process'}; one at a time{advice}"
        )
    return descriptor


def inherited(folder: Path) -> int | None:
    """Return the locked file that `clipkd resume` left open for this process; None without one."""
    text = os.environ.pop(INHERITED, "")
    if not text.isdigit():
        return None
    try:
        there, named = os.fstat(int(text)), os.stat(folder / FILE)
    except OSError:
        return None
    return int(text) if (there.st_dev, there.st_ino) == (named.st_dev, named.st_ino) else None


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
            "start it with `make demo`, `make grid` or `snakemake ...`"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is damaged: start the workflow with the command it was started with") from None


def holder_of(descriptor: int) -> Holder | None:
    """Return who the file names; None where it names nobody."""
    text = os.pread(descriptor, 1_000_000, 0)
    try:
        holder = json.loads(text)["holder"] if text else None
        return Holder(**holder) if holder else None
    except (ValueError, TypeError, KeyError):  # cut off while it was written: by a process that died with it
        return None


def write(descriptor: int, started: Started, holder: Holder | None) -> None:
    """Write down how the main process was started, and who it is while it lives."""
    told: dict[str, Any] = asdict(started) | {"holder": asdict(holder) if holder else None}
    put(descriptor, json.dumps(told))
