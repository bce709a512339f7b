"""Copies, on a node's own disk, of what trainings read over and over. No torch here.

A training reads its images and embeddings at random in every epoch, and on a cluster they lie on a file system that all
nodes share. Where SCRATCH names a folder, each artefact is copied into it once per node, and the jobs of the node read
that copy. It is checked as the artefact itself is, and made again where it is not what the manifest says. Where there
is no room for it, the artefact is read where it lies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import Artifact, check_files, content_of, files_of, matching_manifest, open_artifact
from clipkd.core.disk import free_bytes
from clipkd.core.errors import DataError, MachineError
from clipkd.core.files import written_aside
from clipkd.core.fingerprint import Identity
from clipkd.core.lock import is_free
from clipkd.core.progress import say
from clipkd.core.verified import Stamp

SCRATCH = "CLIPKD_SCRATCH"
"""Environment variable: the folder on this machine's own disk, in which variables are replaced (`training.scratch`)."""
MOST = 0.9
"""A copy takes at most this share of what is free: others use the disk too."""


def open_near(
    folder: Path, kind: str, identity: Identity | None = None, only: Collection[str] | None = None
) -> Artifact:
    """Open an artefact as `open_artifact` does; its files are those of a copy, where SCRATCH asks for one."""
    base = copies_folder(os.environ.get(SCRATCH, ""))
    if base is None:
        return open_artifact(folder, kind, identity, only)
    manifest = matching_manifest(folder, kind, identity)
    copy = base / f"{kind}-{content_of(manifest)[:32]}"
    try:
        with alone(base / f".{copy.name}.lock", f"another process copies or checks {copy}; waiting"):
            return Artifact(folder, manifest, brought(folder, copy, files_of(manifest, only)), copy)
    except (DataError, MachineError, OSError) as error:
        found = open_artifact(folder, kind, identity, only)  # damaged itself? Then it is refused here.
        say(f"{folder} is read where it lies, not copied to {base}: {error}")
        return found


@cache
def copies_folder(asked: str) -> Path | None:
    """Return the folder of this user's copies, made if need be; None, and a line that says why, where there is none."""
    if not asked:
        return None
    path = os.path.expanduser(os.path.expandvars(asked))
    try:
        if "$" in path:
            raise MachineError("the variable is not set here")
        base = Path(path).absolute() / f"clipkd-{os.geteuid()}"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = base.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise MachineError(f"{base} is not a folder that only you can write")
    except (MachineError, OSError) as error:
        say(f"no copies in scratch folder '{asked}', everything is read where it lies: {error}")
        return None
    return base


@contextmanager
def alone(path: Path, words: str) -> Iterator[None]:
    """Hold a lock of this machine while the block lasts; where another process has it, say so in `words` and wait."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if is_free(descriptor, fcntl.LOCK_EX) is False:
            say(words)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def brought(folder: Path, copy: Path, files: dict[str, dict[str, Any]]) -> dict[str, Stamp]:
    """Copy what is not in `copy` as the manifest describes it; return what each file is like.

    Raises:
        DataError: a file is not what the manifest describes, once copied.
        MachineError: there is no room.
        OSError: the copy can't be written.
    """
    stamps: dict[str, Stamp] = {}
    lacking = {}
    for name, entry in files.items():
        try:
            stamps |= check_files(copy, {name: entry})
        except DataError as error:
            lacking[name] = entry
            if (copy / name).exists():
                say(f"{str(error).partition(';')[0]}: it is copied again")
    for leftover in copy.glob(".*.tmp"):  # of a process that was killed; the lock is ours
        leftover.unlink()
    needed, free = sum(entry["bytes"] for entry in lacking.values()), free_bytes(copy)
    if needed > MOST * free:
        raise MachineError(f"{needed:,} bytes, of {free:,} that are free there {MOST:.0%} at most may be taken")
    if lacking:
        say(f"{folder}: {needed / 1e9:.2g} GB are copied to {copy}, where they stay for later jobs on this machine")
    for name in lacking:
        with written_aside(copy / name) as aside:
            shutil.copyfile(folder / name, aside)
    try:
        return stamps | check_files(copy, lacking)
    except DataError:
        shutil.rmtree(copy, ignore_errors=True)
        raise
