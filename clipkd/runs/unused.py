"""Run folders that a refused command would leave behind: nothing is in them but a lock. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipkd.core.errors import MachineError
from clipkd.core.lock import acquire, all_of


def is_unused(folder: Path) -> bool:
    """Return whether a folder holds nothing, or nothing but a lock."""
    return folder.is_dir() and set(folder.iterdir()) <= set(all_of(folder))


@contextmanager
def removed_if_unused(folders: Iterable[Path]) -> Iterator[None]:
    """Remove, when the block ends, those folders that were made in it and in which nothing was written."""
    made = {folder: [path for path in (folder, *folder.parents) if not path.exists()] for folder in folders}
    try:
        yield
    finally:
        for folder, paths in made.items():
            if paths and is_unused(folder):
                with suppress(MachineError, OSError):  # another process begins to write there
                    remove(folder, paths)


def remove(folder: Path, made: Iterable[Path]) -> None:
    """Remove a folder that only its lock is in, and those above it that were made with it, where they are empty."""
    with acquire(folder):
        if not is_unused(folder):
            return
        for file in all_of(folder):
            file.unlink(missing_ok=True)
        for path in made:
            path.rmdir()
