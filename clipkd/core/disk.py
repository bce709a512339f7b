"""Disks and quotas that are full: one message, which names the path and what is free, wherever something is written."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipkd.core.errors import MachineError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space; quota exceeded; larger than a file may be."""
ADVICE = "make room and run the same command again; what was complete before is whole"


class DiskFull(MachineError):
    """There is no room for what is written; `number` is the system's error number."""

    def __init__(self, number: int, path: Path) -> None:
        """Name the path, and what is free there."""
        super().__init__(explained(OSError(number, os.strerror(number)), path))
        self.number = number


def explained(error: OSError, path: Path | None = None) -> str:
    """Return what an OSError says to a user: the path, the reason, and of a full disk what is free.

    Args:
        error: what happened.
        path: what was written; None: what the error names.
    """
    named = path or (Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None)
    reason = str(error.strerror or error)
    if error.errno not in FULL:
        return f"{named}: {reason}" if named else reason
    if named is None:  # standard output, or a temporary file
        places = dict.fromkeys((Path.cwd(), Path(tempfile.gettempdir())))
        free = ", ".join(f"{free_bytes(place):,} bytes are free in {place}" for place in places)
        return f"{reason}; {free}: {ADVICE}"
    quota = " (of the disk; your quota is another limit)" if error.errno == errno.EDQUOT else ""
    return f"can't write {named}: {reason}; {free_bytes(named):,} bytes are free there{quota}: {ADVICE}"


def free_bytes(path: Path) -> int:
    """Return the bytes that are free where a path lies or would lie."""
    there = path.absolute()
    while not os.path.exists(there):  # (a Path raises where a folder above may not be searched)
        there = there.parent
    return shutil.disk_usage(there).free


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn a full disk, in whatever words a library reports it, into an error that names `path`.

    Around others of its kind it names its own path: that of an artefact, not of the temporary file in it.

    Raises:
        DiskFull: there is no room for what the block writes.
    """
    try:
        yield
    except Exception as error:
        if number := full(error):
            raise DiskFull(number, path) from error
        raise


def full(error: Exception) -> int | None:
    """Return the number of a full disk's error; None for any other. (safetensors gives it as text.)"""
    if isinstance(error, DiskFull):
        return error.number
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    return number if number in FULL else None
