"""Artefacts on disk: whole or absent, and never taken for something else.

An artefact is a folder with a `manifest.json` that says what made it (its identity), what is known
about it (facts), and the size and sha256 of each file. It is written aside, synced and renamed, so
that a reader sees all of it or nothing. Each opening checks what it stands for, and its bytes: their
hashes are computed once on a machine and remembered (clipkd.core.verified).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core import lfs
from clipkd.core.disk import room_for
from clipkd.core.errors import DataError
from clipkd.core.files import default_mode, is_json_text, naming, read_json_and_text, sha256, sync, write_json
from clipkd.core.fingerprint import Identity, differences, digest, fingerprint
from clipkd.core.verified import Memory, Stamp, stamp

MANIFEST = "manifest.json"
FORMAT = 1
FIELDS = {"format", "kind", "fingerprint", "identity", "facts", "files"}


@dataclass
class Draft:
    """An artefact in the making: put files into `path` and knowledge into `facts`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def building(folder: Path, kind: str, identity: Identity, replace: bool = False) -> Iterator[Draft]:
    """Build the artefact `folder`; it appears, complete, when the block ends without an error.

    Where two processes build the same artefact, the first to finish wins and the other's equal
    result is dropped.

    Args:
        folder: where it appears.
        kind: what it is.
        identity: what it is made from.
        replace: take the place of one with the same identity too, where that does not say all that is in the files.

    Raises:
        MachineError: the disk is full; names `folder`.
    """
    with room_for(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with naming(folder):
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            draft = Draft(aside)
            yield draft
            seal(draft, kind, identity)
            put_in_place(aside, folder, kind, identity, replace)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def seal(draft: Draft, kind: str, identity: Identity) -> None:
    """Write the manifest of a finished draft and sync everything."""
    inside = sorted(draft.path.rglob("*"))
    for path in inside:
        os.chmod(path, default_mode(path.is_dir()))
        sync(path)
    paths = [path for path in inside if path.is_file()]
    files = {path.relative_to(draft.path).as_posix(): entry_of(path) for path in paths}
    write_manifest(draft.path, kind, identity, draft.facts, files)
    os.chmod(draft.path, default_mode(is_folder=True))
    sync(draft.path)


def write_manifest(
    folder: Path, kind: str, identity: Identity, facts: dict[str, Any], files: dict[str, dict[str, Any]]
) -> None:
    """Write the manifest of a folder: what it is, and the entries of its files."""
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "facts": facts,
        "files": files,
    }
    write_json(folder / MANIFEST, manifest | {"checksum": digest(manifest)})


def entry_of(path: Path) -> dict[str, Any]:
    """Return a file's entry in a manifest."""
    entry: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        entry |= {"shape": list(array.shape), "dtype": str(array.dtype)}
    return entry


def put_in_place(aside: Path, folder: Path, kind: str, identity: Identity, replace: bool) -> None:
    """Rename a sealed folder to its final name, over an empty, unfinished or outdated one; with `replace`, any."""
    outdated: list[Path] = []  # deleted last, when what takes their place is there
    while not is_renamed(aside, folder):
        if not replace and is_artifact(folder, kind, identity):
            break  # another writer was first, with the same content
        outdated.append(move_away(folder))
    sync(folder.parent)
    for place in outdated:
        shutil.rmtree(place, ignore_errors=True)


def is_renamed(aside: Path, folder: Path) -> bool:
    """Rename a folder, also over an empty one, which Snakemake may have made; False where something else is there."""
    try:
        os.rename(aside, folder)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise
        return False
    return True


def is_artifact(folder: Path, kind: str, identity: Identity) -> bool:
    """Return whether a sound artefact of that identity is there; not where another writer has just moved it away."""
    try:
        open_artifact(folder, kind, identity)
    except (DataError, FileNotFoundError):
        return False
    return True


def move_away(folder: Path) -> Path:
    """Move what stands at an artefact's place into a folder beside it, and return that; another writer may have."""
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, place / folder.name)
    return place


@dataclass(frozen=True)
class Artifact:
    """An opened, checked artefact."""

    path: Path
    manifest: dict[str, Any]
    stamps: dict[str, Stamp] = field(default_factory=dict)
    """What each checked file was like when its hash was found right."""
    copy: Path | None = None
    """Where its files are read, if not at `path` (clipkd.core.scratch)."""

    @property
    def place(self) -> Path:
        """The folder that its files are read in."""
        return self.copy or self.path

    @property
    def identity(self) -> Identity:
        return self.manifest["identity"]

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest["facts"]

    def file(self, name: str) -> Path:
        """Return the path of one of the artefact's files."""
        if name not in self.manifest["files"]:
            raise DataError(f"{self.path / MANIFEST} lists no file '{name}'")
        return self.place / name

    def array(self, name: str) -> np.ndarray:
        """Return the stored array `name`, memory-mapped and read-only."""
        path = self.file(f"{name}.npy")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        self.still(path)
        found, entry = {"shape": list(array.shape), "dtype": str(array.dtype)}, self.manifest["files"][path.name]
        if wrong := [key for key in found if found[key] != entry.get(key, found[key])]:
            lines = ", ".join(f"{key} {found[key]}, the manifest says {entry[key]}" for key in wrong)
            raise DataError(f"{path} is not what {MANIFEST} describes ({lines}); delete {self.place} to regenerate it")
        return array

    @property
    def content(self) -> str:
        """The sha256 that stands for the bytes of all files."""
        return content_of(self.manifest)

    def changed(self) -> Path | None:
        """Return a file that has other bytes than when it was checked; None: there is none.

        Only a file with another size or time is read. One that was deleted is no longer there to be compared: what is
        open of it stays as it was.
        """
        for name, before in self.stamps.items():
            path = self.place / name
            with contextlib.suppress(FileNotFoundError):
                now = stamp(path)
                if now == before:
                    continue
                entry = self.manifest["files"][name]
                if now[0] != entry["bytes"] or sha256(path) != entry["sha256"]:
                    return path
                self.stamps[name] = now  # copied or touched
        return None

    def is_replaced(self) -> bool:
        """Return whether another artefact is in its place: one whose manifest says something else."""
        with contextlib.suppress(DataError):
            return (self.place / MANIFEST).exists() and read_manifest(self.place) != self.manifest
        return False

    def still(self, path: Path) -> None:
        """Raise DataError where a file, just opened, is another one than was checked."""
        if stamp(path) != self.stamps.get(path.name, stamp(path)):
            raise DataError(f"{path} was changed or replaced after it was checked; run the command again")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest and check that it is undamaged; raise DataError where it is not."""
    path = folder / MANIFEST
    manifest, text = read_json_and_text(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} has no format {FORMAT}: it was written by another version of clipkd; delete {folder}")
    is_as_written = is_json_text(text, manifest)
    checksum = manifest.pop("checksum", None)
    if checksum != digest(manifest) or not is_as_written or manifest.keys() != FIELDS:
        raise DataError(f"{path} is damaged: checksum mismatch; delete {folder} to regenerate it")
    for name in manifest["files"]:
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"{path} lists '{name}', a file outside of its folder; delete {folder} to regenerate it")
    return manifest


def content_of(manifest: dict[str, Any]) -> str:
    """Return the sha256 that stands for the bytes of all files of a manifest."""
    return digest({name: entry["sha256"] for name, entry in manifest["files"].items()})


def open_artifact(
    folder: Path, kind: str, identity: Identity | None = None, only: Collection[str] | None = None
) -> Artifact:
    """Open the artefact `folder`, checking its manifest, what it stands for, and every file's bytes.

    Args:
        folder: where it lies.
        kind: what it has to be.
        identity: what it must have been made from; None: anything.
        only: the files to check, where others are not read; None: all.

    Raises:
        DataError: it is missing, damaged, of another kind, or made from something else than
            `identity`; the message names the file or the differing field and what to do.
    """
    manifest = matching_manifest(folder, kind, identity)
    return Artifact(folder, manifest, check_files(folder, files_of(manifest, only)))


def matching_manifest(folder: Path, kind: str, identity: Identity | None) -> dict[str, Any]:
    """Return the manifest of an artefact; raise DataError where that is of another kind or made from something else."""
    if not (folder / MANIFEST).exists():
        raise DataError(f"no {kind} at {folder}: {MANIFEST} is missing")
    manifest = read_manifest(folder)
    if manifest["kind"] != kind:
        raise DataError(f"{folder} holds {manifest['kind']}, not {kind}")
    if identity is not None and manifest["fingerprint"] != fingerprint(identity):
        lines = "\n  ".join(differences(manifest["identity"], identity))
        raise DataError(f"{folder} does not match the current settings; delete it to regenerate it:\n  {lines}")
    return manifest


def files_of(manifest: dict[str, Any], only: Collection[str] | None) -> dict[str, dict[str, Any]]:
    """Return the entries of a manifest's files: those in `only`, or all."""
    return {name: entry for name, entry in manifest["files"].items() if only is None or name in only}


def check_files(folder: Path, files: dict[str, dict[str, Any]]) -> dict[str, Stamp]:
    """Raise DataError unless every file has the size and sha256 of its manifest entry; return what each is like."""
    memory, stamps = Memory(folder), {}
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing; delete {folder} to regenerate it, or `dvc pull` it")
        before = stamps[name] = stamp(path)
        if memory.holds(path, entry["sha256"]):
            continue
        check_file(path, entry, folder)
        memory.note(path, before, entry["sha256"])
    memory.save()
    return stamps


def check_file(path: Path, entry: dict[str, Any], folder: Path) -> None:
    """Raise DataError unless a file's bytes have the size and sha256 of its manifest entry."""
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise DataError(
            f"{path} is damaged: {size} bytes instead of {entry['bytes']}{lfs.instead(path)}; "
            f"delete {folder} to regenerate it"
        )
    if sha256(path) != entry["sha256"]:
        raise DataError(f"{path} is damaged: sha256 mismatch; delete {folder} to regenerate it")
