"""Errors that speak to the user. The exit code says who has to act."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Sequence

MOST_NAMED = 20
"""A message names so many files or problems of many."""


class ClipkdError(Exception):
    """Base of every error that is shown as one message, without a traceback."""

    exit_code = 1


class InputError(ClipkdError):
    """The command line, a config file or a name is wrong: the user changes it."""

    exit_code = 2


class DataError(ClipkdError):
    """A file is damaged, incomplete, or stands for something other than what was asked for."""

    exit_code = 3


class MachineError(ClipkdError):
    """The machine lacks something: network, disk space, memory, a device."""

    exit_code = 4


LOST = (
    "device lost",
    "uncorrectable",
    "unspecified launch failure",
    "launch timed out",
    "hardware stack error",
    "fallen off the bus",
    "gpu is lost",
    "unknown error",
    "device(s) is/are busy or unavailable",
)
"""Words of a GPU's driver for a GPU that failed, and not the program. (Out of memory, or a wrong index, is neither.)"""


def lost_device(error: RuntimeError) -> str:
    """Return the first line of the message where torch says that the GPU failed, else ""."""
    first = str(error).partition("\n")[0]
    is_devices = type(error).__name__ == "AcceleratorError" or first.startswith(("CUDA error", "HIP error"))
    return first if is_devices and any(word in first.lower() for word in LOST) else ""


def lacks_memory(error: Exception) -> bool:
    """Return whether Python, numpy or torch says that memory ran out, the computer's or a GPU's."""
    is_torchs = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_torchs


class Interrupted(ClipkdError):
    """A signal stopped the work; it was saved, and the same command goes on with it."""

    def __init__(self, number: signal.Signals, message: str) -> None:
        super().__init__(message)
        # SIGUSR1 is a scheduler's word that time is running out: 75, "try again", as in sysexits.h.
        self.exit_code = 75 if number == signal.SIGUSR1 else 128 + number


class SomeFailed(ClipkdError):
    """Some of several pieces of work failed; the others are complete."""

    def __init__(self, failures: dict[str, ClipkdError], total: int) -> None:
        """Name what failed, and why, among `total`; the exit code is the first one's."""
        lines = "\n".join(f"  {name}: {error}" for name, error in failures.items())
        rest = total - len(failures)
        others = f"; {'the other is' if rest == 1 else f'the other {rest} are'} complete" if rest else ""
        super().__init__(f"{len(failures)} of {total} students failed{others}:\n{lines}")
        self.exit_code = next(iter(failures.values())).exit_code


def first_line(error: Exception) -> str:
    """Return the first line of what an error of a library says; where that is nothing, what it is called."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the known name closest to `name`, or ""; dashes before a flag don't count."""
    lowered = {str(candidate).lower().lstrip("-"): str(candidate) for candidate in known}
    if str(name).lower() == "gpu" and "cuda" in lowered:  # its letters are nearer to "cpu"
        return "; did you mean 'cuda'?"
    close = difflib.get_close_matches(str(name).lower().lstrip("-"), lowered, n=1, cutoff=0.5)
    return f"; did you mean '{lowered[close[0]]}'?" if close else ""


def all_at_once(what: str, problems: Sequence[str]) -> str:
    """Return a message that names problems, MOST_NAMED of them at most, and how many there are."""
    lines = list(problems[:MOST_NAMED])
    if len(problems) > MOST_NAMED:
        lines.append(f"... and {len(problems) - MOST_NAMED:,} more")
    return f"{what} ({len(problems):,} problem{'s' if len(problems) > 1 else ''}):\n  " + "\n  ".join(lines)
