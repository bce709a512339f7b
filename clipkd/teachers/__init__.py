"""Teachers: one file is one teacher. The metadata here imports no torch.

A teacher comes from the Hugging Face hub at a pinned commit (`HubTeacher`), from a folder that the
user has (`FolderTeacher`), or is trained by the workflow itself (`TrainedTeacher`). All three end
as the same kind of folder, and go through the same strict loader.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from clipkd.errors import DataError, InputError, nearest
from clipkd.fingerprint import Identity
from clipkd.registry import specs

LOCK = Path("config/teachers.lock.json")
"""Commits that `clipkd pin` found for teachers whose file names none."""
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
"""All that is ever read of a checkpoint."""


@dataclass(frozen=True)
class TeacherSpec:
    """What is known of a teacher before its weights are there; None: only the checkpoint tells."""

    name: str
    title: str
    image_size: int | None = None
    patch_size: int | None = None
    hidden_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """The normalisation that the teacher was trained with, in units of [0, 1]."""
    head_for: str | None = None
    """The dataset whose classes the checkpoint's own classifier has; None: use a linear probe."""

    def identity(self) -> Identity:
        """Return what makes the teacher's weights."""
        raise NotImplementedError

    @property
    def available(self) -> str:
        """Return "" or the reason why this teacher can't be used yet, with what to do."""
        return ""


@dataclass(frozen=True)
class HubTeacher(TeacherSpec):
    """A checkpoint on the Hugging Face hub, at a commit."""

    hub_id: str = ""
    revision: str | None = None
    """Full commit hash."""
    weights_sha256: str | None = None
    """sha256 of model.safetensors, where it is known; checked after the download."""

    def identity(self) -> Identity:
        return {"hub": self.hub_id, "revision": self.revision}

    @property
    def available(self) -> str:
        if self.revision:
            return ""
        return f"teacher '{self.name}' has no pinned commit: run `clipkd pin {self.name}` once, where there is internet"


@dataclass(frozen=True)
class FolderTeacher(TeacherSpec):
    """A checkpoint in a folder that the user has."""

    folder: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of each file."""

    def identity(self) -> Identity:
        return {"folder": self.digests}


@dataclass(frozen=True)
class TrainedTeacher(TeacherSpec):
    """A Hugging Face ViT that the workflow trains on a dataset and saves with `save_pretrained`."""

    dataset: str = ""
    layers: int = 0
    heads: int = 0
    epochs: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.05
    max_shift: int = 2
    """Random shift in pixels, the training's only augmentation."""
    seed: int = 0
    protocol: int = 1

    def identity(self) -> Identity:
        from clipkd import datasets

        training = {key: value for key, value in asdict(self).items() if key not in {"name", "title", "dataset"}}
        return {"trained_on": datasets.get(self.dataset).identity(), "training": training}


def names() -> list[str]:
    """Return the names of the teachers that have a file of their own."""
    return list(specs(__name__))


@cache
def lock(path: Path) -> dict[str, Any]:
    """Return the commits of `clipkd pin`, teacher -> {"revision", "weights_sha256"}; DataError where it is damaged."""
    from clipkd.artifacts import read_json

    entries = read_json(path) if path.exists() else {}
    if not isinstance(entries, dict):
        raise DataError(f"{path} is damaged: it holds no map of teachers; remove it and pin them again")
    for name, entry in entries.items():
        if not is_pin(entry):
            raise DataError(f"{path}: '{name}' has no commit and sha256; remove its entry and run `clipkd pin {name}`")
    return entries


def is_pin(entry: Any) -> bool:
    """Return whether an entry of the lock file holds a commit, and a sha256 or null."""
    if not isinstance(entry, dict) or not COMMIT.fullmatch(str(entry.get("revision"))):
        return False
    sha256 = entry.get("weights_sha256")
    return sha256 is None or bool(SHA256.fullmatch(str(sha256)))


def get(name: str) -> TeacherSpec:
    """Return the teacher `name`: its key, its hub id, `owner/model@commit`, or a folder.

    Raises:
        InputError: the name is unknown, or a hub id comes without a commit.
    """
    for spec in specs(__name__).values():
        if name.lower() in {spec.name.lower(), getattr(spec, "hub_id", spec.name).lower()}:
            return pinned(spec)
    hub_id, _, revision = name.partition("@")
    if HUB_ID.fullmatch(hub_id) and revision:
        if not COMMIT.fullmatch(revision):
            raise InputError(
                f"teacher '{name}': '{revision}' is not a full commit hash (40 hex digits); a branch can move"
            )
        return HubTeacher(name=f"{slug(hub_id)}-{revision[:8]}", title=hub_id, hub_id=hub_id, revision=revision)
    if is_folder(name):
        return from_folder(Path(name))
    hint = f" A hub model needs its commit: '{name}@<40 hex digits>'." if HUB_ID.fullmatch(name) else ""
    raise InputError(
        f"unknown teacher '{name[:200]}'{nearest(name[:200], names())} (known: {', '.join(names())}).{hint}"
    )


def is_folder(name: str) -> bool:
    """Return whether a name is that of a folder; one that no path can have is none."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def pinned(spec: Any) -> TeacherSpec:
    """Return `spec` with the commit of the lock file, where its own file names none."""
    entry = lock(LOCK).get(spec.name)
    if isinstance(spec, HubTeacher) and spec.revision is None and entry:
        return replace(spec, revision=entry["revision"], weights_sha256=entry["weights_sha256"])
    return spec


def from_folder(folder: Path) -> FolderTeacher:
    """Return the teacher in `folder`, named after the folder and its weights."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no teacher checkpoint: it lacks {', '.join(missing)}")
    stamps = tuple((stat.st_size, stat.st_mtime_ns) for stat in ((folder / name).stat() for name in FILES))
    digests = hashed(folder.resolve(), stamps)
    name = f"{slug(folder.resolve().name)}-{digests['model.safetensors'][:8]}"
    return FolderTeacher(name=name, title=folder.name, folder=str(folder), digests=digests)


@cache
def hashed(folder: Path, stamps: tuple) -> dict[str, str]:
    """Return the sha256 of each of a checkpoint's files, computed once per process while `stamps` stay the same."""
    from clipkd.artifacts import sha256

    return {name: sha256(folder / name) for name in FILES}


def slug(text: str) -> str:
    """Return `text` as a name that may stand in a path."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80].rstrip("-") or "teacher"
