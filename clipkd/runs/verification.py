"""Verification: every artefact and run below some folders, each byte against its manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import MANIFEST, check_file, read_manifest
from clipkd.core.errors import ClipkdError, DataError
from clipkd.core.progress import progress
from clipkd.core.verified import Memory, stamp
from clipkd.data.source_files import stale
from clipkd.plugins import recipes, students
from clipkd.runs.record import METRICS
from clipkd.spec.cells import ONE_VIEW
from clipkd.spec.layout import RUNS

KINDS = (
    "dataset", "thumbnails", "teacher", "embeddings", "part", "prototypes", "head", "run", "checkpoint", "export",
    "embeddings-export",
)  # fmt: skip
PLACES = {"datasets", "thumbnails", "teachers", "embeddings"}
"""The folders of `data/` in which every folder with arrays or weights is an artefact."""
MARKS = re.compile(rf"(-(live|lazy|replayed))?({ONE_VIEW})?(-(\d+|no)-labels)?$")
"""What stands behind the train type in a run's folder."""
UNFINISHED = (".tmp", ".old")


@dataclass
class Findings:
    """What was found."""

    sound: int = 0
    """Artefacts and runs whose every byte is as it was written."""
    files: int = 0
    """Files that were compared with their hashes."""
    bytes: int = 0
    """Their size together."""
    damaged: list[str] = field(default_factory=list)
    """One message for each file that is missing or not as it was written."""
    stale: list[str] = field(default_factory=list)
    """What is sound, but was made from a source that has changed since."""
    left: list[Path] = field(default_factory=list)
    """What a killed process left behind; nothing reads it."""


def verify(roots: list[Path]) -> Findings:
    """Check all artefacts and runs below the folders, whatever this machine has verified before.

    Linked folders are looked into, each once; one that can't be read is damage.
    """
    findings = Findings()
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for root in roots:
        found += walk(root, findings, seen)
    for folder in progress(found, len(found), "verifying", "artefacts"):
        problems = problems_of(folder, findings)
        findings.damaged += problems
        findings.sound += not problems
    return findings


def walk(folder: Path, findings: Findings, seen: set[tuple[int, int]], *, is_artefact: bool = False) -> Iterator[Path]:
    """Yield the artefacts and runs in a folder and below it, in the order of their names.

    Args:
        folder: where to look.
        findings: takes what can't be read, what has no manifest, and what killed processes left.
        seen: device and inode of each folder that was looked into, for links in circles.
        is_artefact: whether a folder above this one has a manifest that speaks for its files.
    """
    try:
        place = folder.stat()
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        findings.damaged.append(f"{folder} can't be read: {error.strerror or error}")
        return
    if (place.st_dev, place.st_ino) in seen:
        return
    seen.add((place.st_dev, place.st_ino))
    files = {child.name for child in children if not child.is_dir()}
    is_hidden = folder.name.startswith(".")
    if MANIFEST in files or METRICS in files:
        is_artefact = True
        yield folder
    elif not (is_artefact or is_hidden or PLACES.isdisjoint(folder.parts)) and any(map(is_data, files)):
        findings.damaged.append(f"{folder} holds files but no {MANIFEST}: delete {folder} to regenerate it")
    for child in (child for child in children if child.is_dir()):
        path = folder / child.name
        if child.name.startswith(".") and child.name.endswith(UNFINISHED):
            findings.left.append(path)
        else:
            yield from walk(path, findings, seen, is_artefact=is_artefact)


def is_data(name: str) -> bool:
    """Return whether a file is of a kind that only artefacts of `data/` hold."""
    return name.endswith((".npy", ".safetensors"))


def misplaced(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Return what is wrong with the name of an artefact's folder, which says what it was made from; None: nothing."""
    kind, made_of = manifest["kind"], manifest["fingerprint"]
    ends = {"embeddings": made_of, "teacher": made_of, "thumbnails": made_of}
    ends |= {derived: f"-{derived}-{made_of}" for derived in ("prototypes", "head")}
    place = folder.absolute()
    if kind in ends and not PLACES.isdisjoint(place.parts) and not place.name.endswith(ends[kind]):
        return (
            f"{folder} holds {kind} with the fingerprint {made_of}, which is not in its name: it was moved or renamed"
        )
    if kind == "run" and (RUNS.parent.name, RUNS.name) in pairwise(place.parts):
        # Not its teacher: a run of each seed's own, or a path, is called otherwise in the folder than in the identity.
        cell, named = manifest["identity"]["cell"], place.parts[-6:]
        axes = (recipes.name_in(cell["recipe"]), cell["dataset"], student_key(cell["student"]))
        last = (cell["train_type"], f"seed{cell['seed']}")
        if axes + last != (*named[:3], MARKS.sub("", named[4]), named[5]):
            return f"{folder} holds the run {'/'.join([*axes, named[3], *last])}: it was moved or renamed"
    return None


def student_key(name: str) -> str:
    """Return a student's name in folders; runs of older versions hold it as it was typed."""
    try:
        return students.get(name).name
    except ClipkdError:  # of a plug-in, or a file, that is not here
        return name


def problems_of(folder: Path, findings: Findings) -> list[str]:
    """Return what is wrong with an artefact or a run, one message a file; remembers the files that are sound."""
    if not (folder / MANIFEST).exists():
        return [f"{folder} holds a {METRICS} but no {MANIFEST}: delete {folder} to regenerate it"]
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        return [str(error)]
    if manifest["kind"] not in KINDS:
        return [f"{folder / MANIFEST}: unknown kind '{manifest['kind']}' (known: {', '.join(KINDS)})"]
    problems, memory = [], Memory(folder)
    if manifest["kind"] == "dataset" and (said := stale(folder)):
        findings.stale.append(said)
    if problem := misplaced(folder, manifest):
        problems.append(problem)
    for name, entry in manifest["files"].items():
        path = folder / name
        try:
            before = stamp(path)
            check_file(path, entry, folder)
            memory.note(path, before, entry["sha256"])
            findings.files += 1
            findings.bytes += entry["bytes"]
        except FileNotFoundError:
            problems.append(f"{path} is missing; delete {folder} to regenerate it, or run `dvc pull`")
        except (DataError, OSError) as error:
            problems.append(str(error))
    memory.save()
    return problems
