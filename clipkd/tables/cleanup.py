"""Leftovers: files in a folder of tables or figures that clipkd wrote for an earlier grid and the present one has not.

Beside the folder stands a list of what was written into it, with the sha256 of each file. Only a file of that list
whose bytes are still those is ever removed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clipkd.core.errors import DataError
from clipkd.core.files import read_json, sha256, write_json
from clipkd.core.progress import say


def list_of(folder: Path) -> Path:
    """Return the file that says what was written into a folder."""
    folder = Path(os.path.abspath(folder))  # `.` and `..` have names, and a link keeps its own
    return folder.parent / f".{folder.name}-written.json"


def remove_leftovers(folder: Path, names: Sequence[str]) -> None:
    """Remove what was written into a folder before and is not among the files of now; note these for the next time.

    Args:
        folder: where they were written.
        names: of the files of now.
    """
    for name, digest in written_before(folder).items():
        path = folder / name
        if name in names or not path.is_file() or path.is_symlink():
            continue
        if sha256(path) == digest:
            path.unlink()
            say(f"{path}: removed, the grid no longer has it")
        else:
            say(f"{path}: not of this grid; left as it is, since it was changed after clipkd wrote it")
    write_json(list_of(folder), {name: sha256(folder / name) for name in names})


def written_before(folder: Path) -> dict[str, str]:
    """Return name -> sha256 of what was written into a folder the last time; nothing where that is not known."""
    path = list_of(folder)
    if not path.exists():
        return {}
    try:
        found = read_json(path)
    except DataError as error:
        say(f"{error}\nnothing of an earlier grid is removed from {folder}")
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    # A name with a folder in it is none of ours.
    return {name: digest for name, digest in entries if Path(name).name == name and isinstance(digest, str)}
