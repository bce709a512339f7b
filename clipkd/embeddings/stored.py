"""Stored embeddings for whoever wants the vectors themselves. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact, read_manifest
from clipkd.core.errors import DataError, InputError, nearest
from clipkd.data.dataset import LABELS
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins import datasets, recipes, teachers


@dataclass(frozen=True)
class StoredEmbeddings:
    """A teacher's embeddings of every image of a dataset, every byte checked against the manifest."""

    artifact: Artifact
    labels: dict[str, np.ndarray] | None
    """Class numbers of the rows, int64 [N], -1 without a label, by split; None: the packed dataset is not there."""
    classes: list[str] | None
    """Class names by number; None where the packed dataset is not there."""
    files: dict[str, list[str]] | None = None
    """The file of each row's image, by split; None where the packed dataset is not there or keeps none."""

    @cached_property
    def train(self) -> np.ndarray:
        """Embeddings of the training images in the dataset's order, float32 [N, V, D].

        View 0 is the image, view 1 (where there is one) its mirror image.
        """
        return Vectors(self.artifact, "train")[:]

    @cached_property
    def test(self) -> np.ndarray:
        """Embeddings of the test images in the dataset's order, float32 [M, D]; DataError where none are stored."""
        return Vectors(self.artifact, "test")[:]

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says: teacher, views, format, device, forward passes."""
        return self.artifact.identity | self.artifact.facts


def load_embeddings(
    dataset: str, teacher: str, recipe: str | None = None, data: str | Path = "data", store: str | None = None
) -> StoredEmbeddings:
    """Return the stored embeddings of a dataset by a teacher.

    Args:
        dataset: its name.
        teacher: its name, as in the config or as the folder below `data/embeddings/DATASET` is called.
        recipe: whose normalisation of the teacher's input was used, where both are stored.
        data: the folder of datasets and embeddings.
        store: the store's fingerprint, where several differ in more: precision, or the run of each seed (`seed*`).

    Raises:
        InputError: there are none, or several that recipe and store do not tell apart; names them, and what differs.
        DataError: a file is damaged.
    """
    root = Path(data)
    name = dataset.lower()
    folders = {path.name: path for path in (root / "embeddings" / name).glob("*")}
    if not folders:
        raise InputError(
            f"no embeddings of {dataset} in {root / 'embeddings'}: run `clipkd extract`, or `dvc pull` them"
        )
    folder = folders.get(teacher) or root / "embeddings" / name / known(teacher, dataset, sorted(folders))
    stores = [path.parent for path in sorted(folder.glob(f"[!.]*/{MANIFEST}")) if is_of_all_images(path.parent)]
    if recipe is not None:
        by_teacher = recipes.get(recipe).teacher_normalisation == "teacher"
        source = None if name in datasets.names() else str(root / "datasets" / name)  # which one makes no difference
        of_dataset = tuple(datasets.get(name, source).mean)
        others = [one for one in stores if normalisation(one) != of_dataset and "imported" not in facts_of(one)]
        if stores and others == stores and not by_teacher:
            raise InputError(
                f"{folder} has embeddings of images that were normalised as the teacher expects it, and none of those "
                f"of recipe '{recipe}': run `clipkd extract` with --recipe {recipe}, or name another recipe"
            )
        if len(stores) > 1:
            stores = [one for one in stores if (one in others) == by_teacher]
    if not stores:
        raise InputError(f"no embeddings of every image in {folder}: run `clipkd extract`, or `dvc pull` them")
    if store is not None:
        if store not in (names := [one.name for one in stores]):
            raise InputError(f"{folder} has no store {store} of every image (there: {', '.join(names) or 'none'})")
        stores = [folder / store]
    if len(stores) > 1:
        by_recipe = "the recipe, or " * (recipe is None and len(set(map(normalisation, stores))) > 1)
        raise InputError(f"{folder} has several: {told_apart(stores)}; name {by_recipe}one of them (store, --store)")
    return opened(stores[0], root / "datasets" / name)


def known(teacher: str, dataset: str, stored: list[str]) -> str:
    """Return what a teacher's folder is called; InputError names those that are stored, where there is no such one."""
    try:
        return teachers.get(teacher).name
    except InputError:
        there = f"{', '.join(stored)}{nearest(teacher, stored)}"
        raise InputError(f"no embeddings of {dataset} by a teacher '{teacher}'; stored are those of {there}") from None


def normalisation(store: Path) -> tuple[float, ...]:
    """Return the mean that the teacher's input of a store was normalised by: recipes differ in no more."""
    return tuple(read_manifest(store)["identity"]["views"].get("mean") or ())


def facts_of(store: Path) -> dict[str, Any]:
    """Return what the manifest of a store says of its making."""
    return dict(read_manifest(store)["facts"])


def told_apart(stores: list[Path]) -> str:
    """Return the stores, each with up to three of the settings in which they differ."""
    found = {store.name: dict(settings(read_manifest(store)["identity"])) for store in stores}
    names = dict.fromkeys(name for one in found.values() for name in one)
    differing = [name for name in names if len({one.get(name) for one in found.values()}) > 1][:3]
    return "; ".join(f"{store} ({', '.join(f'{n}: {one.get(n)}' for n in differing)})" for store, one in found.items())


def settings(identity: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value of an identity as text, with its name, the names above it in front."""
    if not isinstance(identity, dict):
        yield name, str(identity)
        return
    for key, value in identity.items():
        yield from settings(value, f"{name}.{key}" if name else key)


def is_of_all_images(folder: Path) -> bool:
    """Return whether a folder holds embeddings of whole images, not of a sample or of random crops."""
    manifest = read_manifest(folder)
    is_replayed = manifest["identity"].get("views", {}).get("replays")
    return manifest["kind"] == "embeddings" and "train.npy" in manifest["files"] and not is_replayed


def opened(folder: Path, packed: Path) -> StoredEmbeddings:
    """Open a store, and the labels of the dataset that it was made from."""
    artifact = open_artifact(folder, "embeddings")
    if not (packed / MANIFEST).is_file():
        return StoredEmbeddings(artifact, None, None)
    dataset = open_artifact(packed, "dataset", only=LABELS)
    if dataset.facts["content"] != artifact.facts["dataset_content"]:
        raise DataError(
            f"{folder} was made from another content of the dataset than {packed} holds now: extract it again"
        )
    labels = {split: np.array(dataset.array(f"{split}-labels")) for split in ("train", "test")}
    names = {split: f"{split}-names.npy" for split in labels}
    files = None
    if set(names.values()) <= dataset.manifest["files"].keys():
        checked = open_artifact(packed, "dataset", only=tuple(names.values()))
        files = {split: [one.decode() for one in checked.array(f"{split}-names").tolist()] for split in names}
    return StoredEmbeddings(artifact, labels, dataset.facts["classes"], files)
