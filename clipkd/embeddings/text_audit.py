"""Audit of class names: the text tower reads a sample of the prompts again, and must say what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity, canonical
from clipkd.data.dataset import Dataset
from clipkd.embeddings.audit import BATCH, Verdict, compared, deviation_of
from clipkd.embeddings.text import TextTower
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec.class_names import ClassNames
from clipkd.spec.prompts import prompts
from clipkd.spec.views import PROTOCOL, Prompts


def text_stores(folder: Path, dataset: Dataset, teacher: TeacherSpec) -> Iterator[tuple[Path, Identity]]:
    """Yield the stores of this very dataset and text tower below `folder`, with what made them."""
    for path in sorted(folder.glob(f"[!.]*/{MANIFEST}")):
        manifest = read_manifest(path.parent)
        stored = manifest["identity"]
        mine = {"dataset": dataset.spec.identity(), "teacher": teacher.identity(), "protocol": PROTOCOL}
        if manifest["kind"] == "embeddings" and canonical(stored) == canonical(stored | mine):
            yield path.parent, stored


def audit_names(
    folder: Path, identity: Identity, dataset: Dataset, tower: TextTower, classes: int, seed: int
) -> Verdict:
    """Let the tower read all prompts of `classes` classes again, drawn by `seed`; compare.

    Raises:
        DataError: the store's bytes are damaged, or its names or labels are not those that it stands for.
    """
    artifact = open_artifact(folder, "embeddings", identity)
    templates = tuple(identity["views"]["templates"])
    names, labels = names_of(artifact, dataset), artifact.array("sample-labels")
    if not np.array_equal(labels, np.repeat(np.arange(len(names)), len(templates))):
        raise DataError(f"{folder} is wrong: sample-labels.npy does not give each class its prompts; remove the folder")
    stored = Vectors(artifact, "sample")
    chosen = np.random.default_rng(seed).choice(len(names), min(classes, len(names)), replace=False)
    rows = np.flatnonzero(np.isin(labels, chosen))
    texts = [text for number in np.unique(chosen) for text in prompts(names[number], templates)]
    said = np.concatenate([tower.embed(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)])
    cosine, error, relative, bad = compared(stored[rows], said, deviation_of(stored), "float32")
    wrong = tuple(f"'{text}'" for text, is_bad in zip(texts, bad, strict=True) if is_bad)
    what = f"prompts of {len(chosen)} of {len(names)} class names"
    worst = float(cosine.min()), float(error.max()), float(relative.max())
    return Verdict(folder, what, len(texts), *worst, wrong, "read again")


def names_of(artifact: Artifact, dataset: Dataset) -> list[str]:
    """Return the class names that a store was made of; DataError where they are not those that it stands for."""
    told, names = artifact.identity["views"]["class_names"], artifact.facts["class_names"]
    given = [ClassNames("", classes, tuple(names)) for classes in (None, tuple(dataset.classes))]
    is_plain = told == Prompts(()).identity()["class_names"]
    if names != dataset.classes if is_plain else told not in [one.identity() for one in given]:
        raise DataError(f"{artifact.path} is wrong: its class names are not those that it stands for; remove it")
    return names
