"""Teachers on the Hugging Face hub: `owner/model@commit`, of transformers or timm (`timm/model@commit`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json
from clipkd.core.fingerprint import Identity
from clipkd.core.hub import COMMIT, HUB_ID
from clipkd.plugins.teachers._spec import Output, TeacherSpec, giving, slug

LOCK = Path("config/teachers.lock.json")
"""Commits that `clipkd pin` found for teachers whose file names none."""
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubTeacher(TeacherSpec):
    """A checkpoint on the Hugging Face hub, at a commit."""

    kind: ClassVar[str] = "teacher"
    thing: ClassVar[str] = "model"
    verb: ClassVar[str] = "fetch"
    hub_id: str = ""
    revision: str | None = None
    """Full commit hash."""
    weights_sha256: str | None = None
    """sha256 of model.safetensors, where it is known; checked after the download."""

    def identity(self) -> Identity:
        return {"hub": self.hub_id, "revision": self.revision}

    @property
    def typed(self) -> str:
        base = (self.checkpoint or self.name).removesuffix("-text")
        where = f"{self.hub_id}@{self.revision}" if base == made_name(self.hub_id, self.revision) else base
        return f"{where}:text" if self.reads_names else where

    @property
    def available(self) -> str:
        if self.revision:
            return ""
        return f"teacher '{self.name}' has no pinned commit: run `clipkd pin {self.name}` once, where there is internet"


def made_name(hub_id: str, revision: str | None) -> str:
    """Return the name of a teacher that is named by its model and commit."""
    return f"{slug(hub_id)}-{(revision or '')[:8]}"


def on_hub(where: str, output: Output | None) -> TeacherSpec | None:
    """Return the teacher that `owner/model@commit` names; None where `where` has another form."""
    hub_id, _, revision = where.partition("@")
    if not HUB_ID.fullmatch(hub_id) or not revision:
        return None
    if not COMMIT.fullmatch(revision):
        raise InputError(
            f"teacher '{where}': '{revision}' is not a full commit hash (40 hex digits); a branch can move"
        )
    name = made_name(hub_id, revision)
    default: Output = "pooled" if hub_id.startswith("timm/") else "cls"
    spec = HubTeacher(name=name, title=hub_id, hub_id=hub_id, revision=revision, output=default)
    return giving(spec, output or default)


def pinned(spec: Any) -> TeacherSpec:
    """Return `spec` with the commit of the lock file, where its own file names none."""
    entry = lock(LOCK).get(spec.name)
    if isinstance(spec, HubTeacher) and spec.revision is None and entry:
        return replace(spec, revision=entry["revision"], weights_sha256=entry["weights_sha256"])
    return spec


@cache
def lock(path: Path) -> dict[str, Any]:
    """Return the commits of `clipkd pin`, teacher -> {"revision", "weights_sha256"}; DataError where it is damaged."""
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
