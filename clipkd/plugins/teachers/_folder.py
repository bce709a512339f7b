"""Teachers in a folder that the user has: a checkpoint as `save_pretrained` of transformers writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from os.path import expanduser
from pathlib import Path
from typing import Any

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity
from clipkd.plugins.teachers._names import is_folder
from clipkd.plugins.teachers._spec import (
    FILES,
    NESTED_PROCESSOR,
    PROCESSOR,
    TEXT_FILES,
    Output,
    TeacherSpec,
    giving,
    slug,
)


@dataclass(frozen=True)
class FolderTeacher(TeacherSpec):
    """A checkpoint in a folder that the user has."""

    folder: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of each file."""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self.digests) or super().files

    def identity(self) -> Identity:
        return {"folder": self.digests}


def in_folder(where: str, output: Output | None) -> TeacherSpec | None:
    """Return the teacher in the folder `where`; None where it is not a folder."""
    return from_folder(Path(expanduser(where)), output or "cls") if is_folder(where) else None


def from_folder(folder: Path, output: Output) -> TeacherSpec:
    """Return the teacher in `folder`, named after the folder and its weights."""
    files = files_in(folder, output)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no teacher checkpoint: it lacks {', '.join(missing)}")
    stamps = tuple((stat.st_size, stat.st_mtime_ns) for stat in ((folder / name).stat() for name in files))
    digests = hashed(folder.resolve(), files, stamps)
    name = f"{slug(folder.resolve().name)}-{digests['model.safetensors'][:8]}"
    return giving(FolderTeacher(name=name, title=folder.name, folder=str(folder), digests=digests), output)


def files_in(folder: Path, output: Output) -> tuple[str, ...]:
    """Return the files that are read of the checkpoint in a folder, there or not.

    Raises:
        InputError: two files describe its image processor, and not the same.
    """
    if output == "text":
        return TEXT_FILES
    nested = nested_processor(folder / NESTED_PROCESSOR)
    if nested is None:
        return FILES
    if (folder / PROCESSOR).is_file():
        from clipkd.core.artifacts import read_json

        other = read_json(folder / PROCESSOR)
        differ = sorted(key for key in nested.keys() & other.keys() if nested[key] != other[key])
        if differ:
            raise InputError(
                f"{folder}: {PROCESSOR} and {NESTED_PROCESSOR} have another {', '.join(differ)}; remove the one that "
                "is not the checkpoint's"
            )
        return FILES
    return tuple(NESTED_PROCESSOR if name == PROCESSOR else name for name in FILES)


def nested_processor(path: Path) -> dict[str, Any] | None:
    """Return the image processor's settings in a processor_config.json; None where it has none."""
    from clipkd.core.artifacts import read_json

    values = read_json(path) if path.is_file() else None
    nested = values.get("image_processor") if isinstance(values, dict) else None
    return nested if isinstance(nested, dict) else None


@cache
def hashed(folder: Path, files: tuple[str, ...], stamps: tuple) -> dict[str, str]:
    """Return the sha256 of each of a checkpoint's files, computed once per process while `stamps` stay the same."""
    from clipkd.core.artifacts import sha256

    return {name: sha256(folder / name) for name in files}
