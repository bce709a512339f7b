"""Teachers in a folder that the user has: a checkpoint as transformers' `save_pretrained` writes it, or timm's."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from os.path import expanduser
from pathlib import Path
from typing import Any

from clipkd.core import shards
from clipkd.core.errors import InputError
from clipkd.core.files import read_json, sha256_once
from clipkd.core.fingerprint import Identity
from clipkd.core.shards import INDEX
from clipkd.plugins.teachers._names import is_folder
from clipkd.plugins.teachers._spec import (
    FILES,
    NESTED_PROCESSOR,
    PROCESSOR,
    TEXT_FILES,
    Output,
    TeacherSpec,
    giving,
    is_timm,
    refuse_nameless,
    slug,
)

PICKLED = "pytorch_model.bin"
SAVE = "timm.models.save_for_hf(model, FOLDER, safe_serialization=True)"
"""Without the last argument it writes pickled weights."""
FILTER = "bicubic"
"""timm's, where a config.json names none."""


@dataclass(frozen=True)
class FolderTeacher(TeacherSpec):
    """A checkpoint in a folder that the user has."""

    folder: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of each file."""
    weights_bytes: int = 0
    filter: str = ""
    """The filter of a timm checkpoint that names none, which was once another here; "": it names one."""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self.digests) or super().files

    def identity(self) -> Identity:
        return {"folder": self.digests} | ({"interpolation": self.filter} if self.filter else {})


def in_folder(where: str, output: Output | None) -> TeacherSpec | None:
    """Return the teacher in the folder `where`; None where it is not a folder."""
    return from_folder(Path(expanduser(where)), output) if is_folder(where) else None


def from_folder(folder: Path, output: Output | None) -> TeacherSpec:
    """Return the teacher in `folder`, named after the folder and its weights."""
    default: Output = "pooled" if holds_timm(folder) else "cls"
    files = files_in(folder, output or default)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        has_vectors = any(path.suffix in {".npy", ".parquet"} for path in folder.iterdir())
        hint = f"; embeddings alone are named embeddings:{folder}" if has_vectors else ""
        if (folder / PICKLED).is_file():
            hint = f": {PICKLED} there is never opened, as it can run code; write it as safetensors (timm: {SAVE})"
        raise InputError(f"{folder} is no teacher checkpoint: it lacks {', '.join(missing)}{hint}")
    digests = {name: sha256_once(folder / name) for name in files}
    weights = [digest for name, digest in digests.items() if name.endswith(".safetensors")]
    size = sum((folder / name).stat().st_size for name in files if name.endswith(".safetensors"))
    mark = weights[0] if len(weights) == 1 else sha256("".join(weights).encode()).hexdigest()
    name = f"{slug(folder.resolve().name)}-{mark[:8]}"
    spec = FolderTeacher(
        name, folder.resolve().name, folder=str(folder), digests=digests, output=default, weights_bytes=size,
        filter=FILTER if default == "pooled" and names_no_filter(folder) else "",
    )  # fmt: skip
    return giving(spec, output or default)


def holds_timm(folder: Path) -> bool:
    """Return whether a folder's checkpoint is one of timm, by its config.json."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else None
    refuse_nameless(config, str(path))
    return is_timm(config)


def names_no_filter(folder: Path) -> bool:
    """Return whether the config.json of a folder's timm checkpoint leaves the filter to timm."""
    cfg = read_json(folder / "config.json").get("pretrained_cfg")
    return isinstance(cfg, dict) and "interpolation" not in cfg


def files_in(folder: Path, output: Output) -> tuple[str, ...]:
    """Return the files that are read of the checkpoint in a folder, there or not."""
    weights: tuple[str, ...] = ("model.safetensors",)
    if not (folder / weights[0]).is_file() and (folder / INDEX).is_file():
        weights = (INDEX, *shards.names(folder / INDEX))
    settings = [name for name in (TEXT_FILES if output == "text" else FILES) if name != "model.safetensors"]
    if output != "text":
        settings[1:] = [] if holds_timm(folder) else [processor_in(folder)]
    return (*settings, *weights)


def processor_in(folder: Path) -> str:
    """Return the name of the file that describes the image processor of the checkpoint in a folder.

    Raises:
        InputError: two files do, and not the same.
    """
    nested = nested_processor(folder / NESTED_PROCESSOR)
    if nested is None:
        return PROCESSOR
    if (folder / PROCESSOR).is_file():
        other = read_json(folder / PROCESSOR)
        differ = sorted(key for key in nested.keys() & other.keys() if nested[key] != other[key])
        if differ:
            raise InputError(
                f"{folder}: {PROCESSOR} and {NESTED_PROCESSOR} have another {', '.join(differ)}; remove the one that "
                "is not the checkpoint's"
            )
        return PROCESSOR
    return NESTED_PROCESSOR


def nested_processor(path: Path) -> dict[str, Any] | None:
    """Return the image processor's settings in a processor_config.json; None where it has none."""
    values = read_json(path) if path.is_file() else None
    nested = values.get("image_processor") if isinstance(values, dict) else None
    return nested if isinstance(nested, dict) else None
