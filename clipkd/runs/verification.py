"""Verification: every artefact and run below some folders, each byte against its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clipkd.core.artifacts import MANIFEST, check_file, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.progress import progress
from clipkd.core.verified import Memory, stamp

KINDS = ("dataset", "thumbnails", "teacher", "embeddings", "part", "prototypes", "head", "run", "checkpoint")
RESULT = "metrics.json"
UNFINISHED = (".tmp", ".old")


@dataclass
class Findings:
    """What was found."""

    sound: int = 0
    """Artefacts and runs whose every byte is as it was written."""
    damaged: list[str] = field(default_factory=list)
    """One message for each file that is missing or not as it was written."""
    left: list[Path] = field(default_factory=list)
    """What a killed process left behind; nothing reads it."""


def verify(roots: list[Path]) -> Findings:
    """Check all artefacts and runs below the folders, whatever this machine has verified before."""
    findings = Findings()
    found = []
    for root in roots:
        for folder, is_left in walk(root):
            findings.left.append(folder) if is_left else found.append(folder)
    for folder in progress(found, len(found), "verifying", "artefacts"):
        problems = problems_of(folder)
        findings.damaged += problems
        findings.sound += not problems
    return findings


def walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the artefacts and runs below a folder, in the order of their names, and unfinished folders as (_, True)."""
    for name, folders, files in os.walk(root):
        folder = Path(name)
        folders.sort()
        for child in [child for child in folders if child.startswith(".") and child.endswith(UNFINISHED)]:
            folders.remove(child)
            yield folder / child, True
        if MANIFEST in files or RESULT in files:
            yield folder, False


def problems_of(folder: Path) -> list[str]:
    """Return what is wrong with an artefact or a run, one message a file; remembers the files that are sound."""
    if not (folder / MANIFEST).exists():
        return [f"{folder} holds a {RESULT} but no {MANIFEST}: delete {folder} to regenerate it"]
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [str(error)]
    if manifest["kind"] not in KINDS:
        return [f"{folder / MANIFEST}: unknown kind '{manifest['kind']}' (known: {', '.join(KINDS)})"]
    problems, memory = [], Memory(folder)
    for name, entry in manifest["files"].items():
        path = folder / name
        try:
            before = stamp(path)
            check_file(path, entry, folder)
            memory.note(path, before, entry["sha256"])
        except FileNotFoundError:
            problems.append(f"{path} is missing; delete {folder} to regenerate it, or run `dvc pull`")
        except (DataError, OSError) as error:
            problems.append(str(error))
    memory.save()
    return problems
