"""Teachers of which only embeddings are there: `embeddings:FOLDER-or-FILE`, vectors that somebody else computed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from os.path import expanduser
from pathlib import Path

from clipkd.core.errors import InputError
from clipkd.core.files import sha256_once
from clipkd.core.fingerprint import Identity, digest
from clipkd.plugins.teachers._names import IMPORTED
from clipkd.plugins.teachers._spec import Output, TeacherSpec, slug

PARTS = ("train", "train-mirrored", "test", "classes")
"""What a folder's files are called: vectors of the training images, of the same mirrored, of the test images; or one
of each class."""
SUFFIXES = (".npy", ".safetensors", ".parquet")
NAMES_SUFFIX = ".txt"
"""Of the file beside one of vectors that names the image of each, a line a row."""


@dataclass(frozen=True)
class ImportedTeacher(TeacherSpec):
    """Vectors in files; there is no model that could be run."""

    source: str = ""
    """The folder or file."""
    vectors: dict[str, str] = field(default_factory=dict)
    """Part (of PARTS) -> its file."""
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of each file, by part and suffix: what a file is called makes no difference."""

    @property
    def is_imported(self) -> bool:
        return True

    @property
    def is_per_class(self) -> bool:
        return "classes" in self.vectors

    @property
    def has_mirrored(self) -> bool:
        return "train-mirrored" in self.vectors

    def identity(self) -> Identity:
        return {"imported": self.digests}


def imported(where: str, output: Output | None) -> TeacherSpec | None:
    """Return the teacher in `embeddings:FOLDER-or-FILE`; None where `where` is something else.

    Raises:
        InputError: there is no such folder or file, or it is not one of vectors; says what is.
    """
    if not where.startswith(IMPORTED):
        return None
    path = Path(expanduser(where.removeprefix(IMPORTED)))
    files = in_folder(path) if os.path.isdir(path) else of_file(path)
    named = {f"{part}{file.suffix}": file for part, file in files.items()}
    texts = {f"{part}{NAMES_SUFFIX}": file.with_suffix(NAMES_SUFFIX) for part, file in files.items()}
    named |= {name: file for name, file in texts.items() if file.is_file()}
    digests = {name: sha256_once(file) for name, file in named.items()}
    stem = path.resolve().name if path.is_dir() else path.stem
    vectors = {part: str(file) for part, file in files.items()}
    name = f"{slug(stem)}-{digest(digests)[:8]}"
    return ImportedTeacher(name=name, title=stem, source=str(path), vectors=vectors, digests=digests)


def in_folder(folder: Path) -> dict[str, Path]:
    """Return the files of vectors in a folder, by part."""
    unused = sorted(
        path.name
        for path in folder.iterdir()
        if not is_part(path)
        and path.name[0] != "."
        and path.is_file()
        and (path.suffix.lower() in SUFFIXES or (path.stem in PARTS and path.suffix != NAMES_SUFFIX))
    )
    if unused:
        raise InputError(
            f"{folder} has {', '.join(unused)}, which would not be used: a file of vectors is called "
            f"{', '.join(PARTS)}, with {', '.join(SUFFIXES)} (the validation images of a folder of images are its "
            "`test`); rename it, or put it elsewhere"
        )
    found: dict[str, Path] = {}
    for part in PARTS:
        files = [path for suffix in SUFFIXES if (path := folder / f"{part}{suffix}").is_file()]
        if len(files) > 1:
            raise InputError(f"{folder} has {' and '.join(path.name for path in files)}: keep one of them")
        found |= {part: files[0]} if files else {}
    if "classes" in found and len(found) > 1:
        others = " and ".join(path.name for part, path in found.items() if part != "classes")
        raise InputError(
            f"{folder} has {found['classes'].name} beside {others}: vectors of classes are a teacher of their own; put "
            "them in a folder of their own"
        )
    if not found.keys() & {"train", "classes"}:
        known = ", ".join(SUFFIXES)
        raise InputError(
            f"{folder} has no embeddings: it needs train{SUFFIXES[0]} (a vector for each training image) or "
            f"classes{SUFFIXES[0]} (one for each class); formats: {known} (docs/own.md)"
        )
    return found


def is_part(path: Path) -> bool:
    """Return whether a file is called as one of the vectors of a part."""
    return path.stem in PARTS and path.suffix in SUFFIXES


def of_file(path: Path) -> dict[str, Path]:
    """Return the one file of vectors, by its part: the training images', unless its name says `classes`."""
    if not os.path.isfile(path):
        raise InputError(f"teacher '{IMPORTED}{path}': there is no such folder or file")
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"teacher '{IMPORTED}{path}': supported formats are {', '.join(SUFFIXES)}, not '{path.suffix}'"
            + ("; save its array with np.save" if path.suffix == ".npz" else "")
        )
    if path.stem in {"test", "train-mirrored"}:
        raise InputError(f"teacher '{IMPORTED}{path}': name the folder, with the training images' vectors as train.*")
    return {"classes" if path.stem == "classes" else "train": path}
