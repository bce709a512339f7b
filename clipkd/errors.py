"""Errors that speak to the user. The exit code says who has to act."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


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


class Interrupted(ClipkdError):
    """A signal stopped the work; it was saved, and the same command goes on with it."""

    def __init__(self, number: signal.Signals, message: str) -> None:
        super().__init__(message)
        # SIGUSR1 is a scheduler's word that time is running out: 75, "try again", as in sysexits.h.
        self.exit_code = 75 if number == signal.SIGUSR1 else 128 + number


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the known name closest to `name`, or ""."""
    lowered = {str(candidate).lower(): str(candidate) for candidate in known}
    close = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean '{lowered[close[0]]}'?" if close else ""
