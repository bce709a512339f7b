"""The store of a run's teacher: where its embeddings, and what makes class scores of them, are kept."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact, read_manifest
from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity, fingerprint
from clipkd.embeddings.vectors import Vectors
from clipkd.export.subject import Subject
from clipkd.plugins import teachers
from clipkd.runs.record import KIND as RUN
from clipkd.runs.standardisation import Standardisation
from clipkd.spec.views import OF_TEXT, POOLING

KINDS = {"prototypes", "embeddings", "teacher", "head"}
"""What a run's signal may be made from; of several teachers it is one of these for each."""


class NoStore(Exception):
    """There is no one store of a run's teacher; says why."""


@dataclass(frozen=True)
class TeacherStore:
    """What is stored of one teacher for the images of one dataset."""

    embeddings: Artifact
    head: Artifact | None
    """What makes class scores; None: nothing does."""
    standardised: Standardisation | None
    """What training did to the vectors; None: nothing."""
    without_head: str = ""
    """Where a head would be."""

    def scores(self) -> np.ndarray:
        """Return the class scores [M, C] of the test split, which the head makes from its embeddings."""
        assert self.head is not None
        return Vectors(self.embeddings, "test")[:] @ self.head.array("weight").T + self.head.array("bias")


def find_store(subject: Subject) -> TeacherStore:
    """Return the store of the teacher of a subject's run.

    Raises:
        NoStore: the run has no teacher, or several; or no store of the test split is here, or several are.
    """
    if subject.model.manifest["kind"] != RUN:
        raise NoStore("an export does not say which embeddings taught it: evaluate the run folder")
    signal = subject.run["signal"]
    if not signal:
        raise NoStore("the run has no teacher")
    if not signal.keys() <= KINDS:
        raise NoStore(f"the run has several teachers ({', '.join(signal)})")
    folder = store_folder(subject, signal)
    embeddings = open_artifact(folder, "embeddings")
    if embeddings.facts["dataset_content"] != subject.dataset.content:
        raise NoStore(f"{folder} holds embeddings of other images than these")
    heads = [path for path in sorted(folder.parent.glob(f"{folder.name}-head-*/{MANIFEST}")) if is_of(path, subject)]
    exact = f"{folder.name}-head-{fingerprint(signal['head'])}" if "head" in signal else None
    chosen = [path.parent for path in heads if exact in (None, path.parent.name)]
    missing = f"no head beside {folder}: run `clipkd probe`" if not chosen else ""
    missing = f"several heads beside {folder}: {', '.join(p.name for p in chosen)}" if chosen[1:] else missing
    head = open_artifact(chosen[0], "head") if len(chosen) == 1 else None
    return TeacherStore(embeddings, head, standardisation(subject, signal), missing)


def is_of(path: Path, subject: Subject) -> bool:
    """Return whether a head was made with the labels that the run saw, or needs none."""
    identity = read_manifest(path.parent)["identity"]
    return identity["head"] == "checkpoint" or identity.get("few_labels") == subject.few


def store_folder(subject: Subject, signal: dict[str, Any]) -> Path:
    """Return the folder of the embeddings of every image that goes with a run's signal."""
    known = signal.get("head", {}).get("embeddings") or signal.get("embeddings")
    sampled = signal.get("prototypes", {}).get("embeddings")
    asked = (known or sampled or {"teacher": signal.get("teacher")})["teacher"]
    pooling = pooling_of(known or sampled, subject)
    if pooling == OF_TEXT:
        raise NoStore("a text tower taught it, which says nothing of an image")
    found = []
    for path in sorted((subject.data / "embeddings" / subject.dataset.spec.name).glob(f"[!.]*/[!.]*/{MANIFEST}")):
        manifest = read_manifest(path.parent)
        identity = manifest["identity"]
        if manifest["kind"] != "embeddings" or "test.npy" not in manifest["files"]:
            continue
        if pooling in (None, identity["views"]["pooling"]) and identity["teacher"].items() <= asked.items():
            found.append((path.parent, identity))
    exact = [folder for folder, identity in found if identity in (known, sampled)]
    alike = [folder for folder, identity in found if normalised_as(identity, known or sampled)]
    folders = that_taught(exact or alike, subject)
    if not folders:
        cell = subject.model.trained
        raise NoStore(
            f"no embeddings of the test split by {cell['teacher']} in {subject.data}: run `clipkd extract --views full`"
        )
    if len(folders) > 1:
        raise NoStore(
            f"several stores of the teacher, and the run does not say which of them taught it: "
            f"{', '.join(map(str, folders))}; keep the one to compare with in {subject.data / 'embeddings'}, and move "
            "the others elsewhere"
        )
    return folders[0]


def that_taught(folders: list[Path], subject: Subject) -> list[Path]:
    """Return the one store whose bytes taught the run, or one of several with the same bytes; else all of them."""
    contents = {folder: Artifact(folder, read_manifest(folder)).content for folder in folders}
    named = {one["sha256"] for one in subject.model.manifest.get("facts", {}).get("signal", ())}
    folders = sorted(folders, key=lambda folder: not any(folder.parent.glob(f"{folder.name}-head-*")))  # with one first
    taught = [folder for folder in folders if contents[folder] in named]
    return taught[:1] or (folders[:1] if len(set(contents.values())) == 1 else folders)


def pooling_of(known: Identity | None, subject: Subject) -> str | None:
    """Return which of its teacher's outputs taught a run, as identities have it; None where nothing tells."""
    if known is not None:
        return str(known["views"]["pooling"])
    with suppress(InputError):  # a live teacher, which may not be known here
        return POOLING.get(teachers.get(subject.model.trained["teacher"]).output)
    return None


def normalised_as(identity: Identity, known: Identity | None) -> bool:
    """Return whether a store's images were normalised as those that taught the run."""
    if known is None:
        return True
    return bool(identity["views"].get("mean") == known["views"].get("mean"))


def standardisation(subject: Subject, signal: dict[str, Any]) -> Standardisation | None:
    """Return what a run's training did to its teacher's vectors; prototypes of one teacher are taken as they are."""
    if not subject.run["recipe"].get("standardised") or "embeddings" not in signal:
        return None
    name, identity = subject.dataset.spec.name, signal["embeddings"]
    places = list((subject.data / "embeddings" / name).glob(f"*/{fingerprint(identity)}"))
    if not places:
        raise NoStore(f"the embeddings that taught the run ({fingerprint(identity)}) are not in {subject.data}")
    return Standardisation.of_images(open_artifact(places[0], "embeddings", identity))
