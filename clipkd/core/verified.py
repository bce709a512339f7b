"""What this machine has verified: a large file whose hash was checked is not hashed again soon if it stays as it was.

A file stays as it was while its size, times of change, inode and device do. The change time (ctime) is
among them because an edit can put the modification time back, but not that. The memory is one small
JSON file per artefact in the user's cache folder. Where it can't be read or written, or someone else
could have written it, files are simply hashed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from clipkd.core import cache
from clipkd.core.fingerprint import digest

ALWAYS = "CLIPKD_VERIFY"
"""Environment variable; set to `always`, every opening hashes every byte (`--verify` sets it)."""
RACY_SECONDS = 2.0
"""A file changed less than this ago could be changed again with equal time stamps: it is not remembered."""

SMALL_BYTES = 16 << 20
"""Files up to this size are hashed each time: it takes some hundredths of a second."""
MAX_AGE_DAYS = 30
"""A file is hashed again when its hash was found right longer ago: disks change bytes, and no time. Memories that were
last written longer ago are deleted."""

Stamp = list[int]


def folder() -> Path:
    """Return where the memory lies: `clipkd/verified` in the user's cache folder."""
    return cache.folder() / "clipkd" / "verified"


def stamp(path: Path) -> Stamp:
    """Return what must not change about a file: size, modification and change time, inode, device."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


class Memory:
    """What is known of one artefact's files."""

    def __init__(self, artifact: Path) -> None:
        self.artifact = artifact
        self.is_changed = False

    @cached_property
    def name(self) -> str:
        """The file's name."""
        return f"{digest(str(self.artifact.resolve()))[:32]}.json"

    @cached_property
    def known(self) -> dict[str, list[Any]]:
        """The remembered files; nothing where the memory is missing, damaged or not only ours."""
        if os.environ.get(ALWAYS) == "always":
            return {}
        try:
            with open(folder() / self.name, encoding="utf-8") as stream:
                found = os.fstat(stream.fileno())
                if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    return {}
                known = json.load(stream)
        except (OSError, ValueError, RuntimeError):  # RuntimeError: the user has no home
            return {}
        return known if isinstance(known, dict) else {}

    def holds(self, path: Path, sha256: str) -> bool:
        """Return whether the file, as it is now, has been found to have this hash."""
        if path.stat().st_size <= SMALL_BYTES:  # never remembered: of a run's small files there is no memory to open
            return False
        entry = self.known.get(str(path.absolute()))
        if not isinstance(entry, list) or entry[:-1] != [*stamp(path), sha256]:
            return False
        return 0 <= time.time() - entry[-1] < MAX_AGE_DAYS * 86400

    def note(self, path: Path, before: Stamp, sha256: str) -> None:
        """Remember that a large file had this hash, unless it may have changed since its stamp `before` was taken."""
        young = time.time_ns() - max(before[1], before[2]) < RACY_SECONDS * 1e9
        if not young and before[0] > SMALL_BYTES and stamp(path) == before:
            self.known[str(path.absolute())] = [*before, sha256, time.time()]
            self.is_changed = True

    def save(self) -> None:
        """Write what was noted; a memory that can't be written is none."""
        if not self.is_changed:
            return
        try:
            memory = folder()
            memory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile("w", dir=memory, delete=False, encoding="utf-8") as stream:  # mode 0600
                json.dump(self.known, stream)
            os.replace(stream.name, memory / self.name)
            prune(memory)
        except (OSError, RuntimeError):
            return


def prune(memory: Path) -> None:
    """Delete what was written more than MAX_AGE_DAYS ago: artefacts that are gone leave no memory for ever."""
    oldest = time.time() - MAX_AGE_DAYS * 86400
    for path in memory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            if path.stat().st_mtime < oldest:
                path.unlink()
