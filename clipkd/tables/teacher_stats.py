"""Teacher statistics: what the manifests below data/ say of their accuracy and of their extraction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Generic, TypeVar

import numpy as np

from clipkd.core.artifacts import MANIFEST, content_of, open_artifact, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity, differences, fingerprint
from clipkd.core.typed_json import Count, Excerpt, NonNegative, Positive, Share, Text, validated
from clipkd.embeddings.weights_sha256 import teacher_fingerprint
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Embeddings, Layout

PROTOTYPES = "prototypes.npy"


@dataclass(frozen=True)
class Extraction:
    """One pass of a teacher over a view set, and what it left on disk."""

    seconds: float
    forward_passes: int
    device: str
    disk_bytes: int


@dataclass(frozen=True)
class Head:
    """Test accuracy of a teacher's class scores, as shares of 1."""

    name: str
    """`linear probe`, or `checkpoint` for the checkpoint's own classifier."""
    top1: float | None
    top5: float | None
    """None: the teacher's embeddings were imported without those of the test images."""


@dataclass(frozen=True)
class Teacher:
    """A teacher's size and, where the workflow trained it, its own test accuracy (share of 1)."""

    parameters: int
    accuracy: float | None


class Test(Excerpt):
    """A share of 1, measured on the test split."""

    test: Share


class MaybeTest(Excerpt):
    """A share of 1, measured on the test split where embeddings of it are stored."""

    test: Share | None = None


class DatasetFacts(Excerpt):
    """Of a packed dataset."""

    content: Text


class StoredFacts(Excerpt):
    """Of whatever was made from a dataset's images."""

    dataset_content: Text
    weights_sha256: Text | None = None
    """Of the teacher that it was made with; None: unknown."""


class ExtractionFacts(StoredFacts):
    """Of embeddings."""

    seconds: NonNegative
    forward_passes: Count
    device: Text


class HeadFacts(StoredFacts):
    """Of class scores."""

    head: Text
    accuracy: MaybeTest
    top5: MaybeTest


class TeacherFacts(Excerpt):
    """Of a teacher's checkpoint."""

    parameters: Positive
    accuracy: Test | None = None


class FileEntry(Excerpt):
    """Of one file."""

    bytes: Count


AnyFacts = TypeVar("AnyFacts", bound=Excerpt)


class Manifest(Excerpt, Generic[AnyFacts]):
    """What is read of a manifest."""

    facts: AnyFacts
    files: dict[str, FileEntry]


def together(each: list[Extraction]) -> Extraction:
    """Return several extractions as one: sums, and every device."""
    return Extraction(
        sum(one.seconds for one in each),
        sum(one.forward_passes for one in each),
        "; ".join(dict.fromkeys(one.device for one in each)),
        sum(one.disk_bytes for one in each),
    )


def class_cosine(prototypes: np.ndarray) -> float:
    """Return the mean cosine between vectors of different classes, of prototypes [C, D] or [C, P, D].

    Of unit vectors u: the sum over all pairs is |sum of u|^2; what a class has with itself is taken off.
    """
    each = prototypes.reshape(len(prototypes), -1, prototypes.shape[-1]).astype(np.float64)
    units = each / np.linalg.norm(each, axis=-1, keepdims=True)
    classes, sums = len(units), units.sum(axis=1)
    within = (sums**2).sum()
    return float(((sums.sum(axis=0) ** 2).sum() - within) / (classes * (classes - 1) * units.shape[1] ** 2))


def mean_known(values: list[float | None]) -> float | None:
    """Return the mean; None where one is not known."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def needs_head(cell: Cell) -> bool:
    """Return whether the run reads the teacher's class scores."""
    return cell.method.signal == "scores"


def needs_full(cell: Cell) -> bool:
    """Return whether the run, or the head it reads, stands on the embeddings of every image."""
    return needs_head(cell) or (cell.method.signal == "embeddings" and cell.teacher_source == "cached")


def needs_replayed(cell: Cell) -> bool:
    """Return whether the run reads the embeddings of random views."""
    return cell.method.is_per_image and cell.teacher_source == "replayed"


def needs_sample(cell: Cell) -> bool:
    """Return whether the run reads class prototypes."""
    return cell.method.signal == "prototypes"


class TeacherStats:
    """Reads manifests, each once; notes in `absent` what a run must have read and is not there (below data/)."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.absent: dict[str, None] = {}
        self.manifests: dict[Path, dict[str, Any] | None] = {}

    def head(self, cell: Cell) -> Head | None:
        """Return the teacher's head as the cell's recipe makes it; None where there is none, or several are."""
        if len(cell.by_teacher) > 1:
            for one in cell.by_teacher:
                self.head(one)
            return None
        if cell.teacher_spec is None or cell.teacher_spec.is_per_class:
            return None
        folder, identity = self.layout.head(cell)
        found = self.read(folder, "head", identity, HeadFacts, needs_head(cell))
        return Head(found.facts.head, found.facts.accuracy.test, found.facts.top5.test) if found else None

    def heads(self, cells: list[Cell]) -> Head | None:
        """Return the teacher's head of cells that differ in their student and seed: the mean one, if seeds have
        their own."""
        kinds = {(cell.few_labels, cell.teacher_of_seed): cell for cell in cells}
        found = [self.head(cell) for cell in kinds.values()]
        known = [one for one in found if one]
        if len(found) < 2 or len(known) < len(found):
            return found[0] if len(found) < 2 else None
        top1, top5 = ([one.top1 for one in known], [one.top5 for one in known])
        return Head(known[0].name, mean_known(top1), mean_known(top5))

    def full(self, cell: Cell) -> Extraction | None:
        """Return the extraction of every image, as the cell's recipe asks for it."""
        if cell.teacher_spec is None or cell.teacher_spec.is_per_class:
            return None
        return self.extraction(self.layout.full_embeddings(cell), needs_full(cell))

    def sample(self, cell: Cell) -> Extraction | None:
        """Return the extraction of the few images per class that become prototypes."""
        return self.extraction(self.layout.sample_embeddings(cell), needs_sample(cell)) if cell.teacher_spec else None

    def used(self, cell: Cell) -> Extraction | None:
        """Return the extraction that the run's teacher signal comes from (of several teachers, all); None without."""
        if len(cell.by_teacher) > 1:
            each = [self.used(one) for one in cell.by_teacher]
            return together([one for one in each if one]) if all(each) else None
        if needs_replayed(cell):
            parts = [self.extraction(self.layout.replayed_embeddings(cell), True)]
            parts += [self.full(cell)] if needs_head(cell) else []  # its head stands on every image
            return together([one for one in parts if one]) if all(parts) else None
        return self.sample(cell) if needs_sample(cell) else self.full(cell) if needs_full(cell) else None

    def teacher(self, cell: Cell) -> Teacher | None:
        """Return what the teacher's own manifest says, None where there is none."""
        spec = cell.teacher_spec
        found = self.read(self.layout.teacher(spec), "teacher", spec.identity(), TeacherFacts) if spec else None
        if found is None:
            return None
        return Teacher(found.facts.parameters, found.facts.accuracy.test if found.facts.accuracy else None)

    def class_cosine(self, cell: Cell) -> float | None:
        """Return the mean cosine between prototypes of different classes; None where none are stored."""
        folder, identity = self.layout.prototypes(cell)
        if self.read(folder, "prototypes", identity, StoredFacts) is None:
            return None
        return class_cosine(open_artifact(folder, "prototypes", identity, only=(PROTOTYPES,)).array("prototypes"))

    def extraction(self, store: Embeddings, needed: bool) -> Extraction | None:
        found = self.read(store.folder, "embeddings", store.identity, ExtractionFacts, needed)
        if found is None:
            return None
        facts, disk_bytes = found.facts, sum(entry.bytes for entry in found.files.values())
        return Extraction(facts.seconds, facts.forward_passes, " ".join(facts.device.split()), disk_bytes)

    @property
    def stored(self) -> dict[tuple[str, str], str]:
        """Kind and fingerprint of each artefact that was read -> sha256 of its files together."""
        return {(one["kind"], one["fingerprint"]): content_of(one) for one in self.manifests.values() if one}

    def contents(self, cell: Cell) -> Iterator[tuple[Path, StoredFacts, str]]:
        """Yield manifest, facts and the teacher's fingerprint of each artefact that the run reads and that is there."""
        for one in cell.by_teacher:
            asked = [("embeddings", store.folder, store.identity) for store in self.layout.stores(one).values()]
            if needs_sample(one):
                asked.append(("prototypes", *self.layout.prototypes(one)))
            if needs_head(one):
                asked.append(("head", *self.layout.head(one)))
            for kind, folder, identity in asked:
                found = self.read(folder, kind, identity, StoredFacts)
                if found is not None:
                    yield folder / MANIFEST, found.facts, teacher_fingerprint(identity)

    def read(
        self, folder: Path, kind: str, identity: Identity, facts: type[AnyFacts], needed: bool = False
    ) -> Manifest[AnyFacts] | None:
        """Return an artefact's manifest, None where it is not there."""
        if folder not in self.manifests:
            self.manifests[folder] = read_manifest(folder) if (folder / MANIFEST).exists() else None
        manifest = self.manifests[folder]
        if manifest is None:
            if needed:
                self.absent[f"{kind} {folder.relative_to(self.layout.data).as_posix()}"] = None
            return None
        if manifest["kind"] != kind:
            raise DataError(f"{folder} holds {manifest['kind']}, not {kind}")
        if fingerprint(manifest["identity"]) != fingerprint(identity):
            lines = "\n  ".join(differences(manifest["identity"], identity))
            raise DataError(f"{folder / MANIFEST} does not match the name of its folder:\n  {lines}")
        return validated(Manifest[facts], manifest, folder / MANIFEST)  # type: ignore[valid-type]
