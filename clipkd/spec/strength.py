"""How strong `augment: auto` is: by the student's size and the length of the run. No torch here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.recipes import Recipe, Strength
from clipkd.plugins.students import NetworkSpec

LARGE, LONG = 2_500_000, 5_000_000
"""Parameters and images seen from which on full strength is published to help: ViTs of 2.7 M parameters, 100 epochs of
50,000 images (docs/method.md)."""
REPEATED = 100
"""Epochs from which on crops were better than flips alone for small students."""


def strength_for(student: NetworkSpec, images: int, epochs: int) -> Strength:
    """Return how strongly to augment `images` training images for a student over so many epochs.

    Too strong costs a small student in a short run 5 points and more; too weak, a large one in a long run far more.
    Between what was measured, the weaker one is taken.
    """
    if images * epochs >= LONG and student.parameters() >= LARGE:
        return "full"
    return "crop" if epochs >= REPEATED else "flip"


def planned_strength(
    recipe: Recipe, student: NetworkSpec, dataset: DatasetSpec, source: str | None, epochs: int, data: Path
) -> Strength:
    """Return `strength_for` before the dataset is opened, and even before it is packed.

    Args:
        recipe: says whether validation images are trained on.
        student: the student.
        dataset: what it is trained on.
        source: where the dataset's data are; None: at the official place.
        epochs: passes over the training images.
        data: the folder of packed datasets.

    Raises:
        InputError: it depends on a number of images that nothing but packing the dataset tells.
    """
    counts = packed_counts(dataset, data) or dataset.counts
    if counts is not None:
        train, held_out = counts
        return strength_for(student, train - (held_out if recipe.selection == "validation" else 0), epochs)
    weaker = strength_for(student, 0, epochs)
    # It is not full with any number of images, or not with those that there are.
    if dataset.has_fewer_images(source, -(-LONG // epochs)) or strength_for(student, LONG, epochs) == weaker:
        return weaker
    given = f" --dataset-source '{source}'" if source else ""
    raise InputError(
        f"recipe '{recipe.name}' augments as the student's size and the images that it sees ask for ('{weaker}', or "
        f"'full' from {LONG:,} images in {epochs} epochs on), and how many images dataset '{dataset.name}' has is "
        f"known when it is packed: run `clipkd download {dataset.name}{given}` first, or name a strength, as in recipe "
        f"'modern-{weaker}' or 'modern-full'"
    )


def packed_counts(dataset: DatasetSpec, data: Path) -> tuple[int, int] | None:
    """Return how many training images a packed dataset has, and how many of them are held out; None: none is there."""
    facts = packed_facts(dataset, data)
    return (facts["train"], facts["validation"]) if facts else None


def packed_facts(dataset: DatasetSpec, data: Path) -> dict[str, Any] | None:
    """Return what a packed dataset's manifest says of it; None: none is there."""
    folder = (data / "datasets" / dataset.name).resolve()
    try:
        stat = (folder / MANIFEST).stat()
        manifest = manifest_at(folder, (stat.st_mtime_ns, stat.st_size))
    except (OSError, DataError):
        return None  # packing comes first, or says what is wrong
    return manifest["facts"] if manifest["identity"] == dataset.identity() else None


@lru_cache(maxsize=32)
def manifest_at(folder: Path, stamps: tuple[int, int]) -> dict[str, Any]:
    """Return a manifest, read once as long as `stamps` stay the same: a grid asks for it for each of its cells."""
    return read_manifest(folder)
