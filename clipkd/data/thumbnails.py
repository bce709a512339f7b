"""Thumbnails: a dataset of large images at a student's size, packed once from the packed dataset.

Training images have their short side at the student's size, as torchvision's `Resize` leaves them: random crops are
cut from these. Test images, and training images held out for validation, are squares of that size, as a student
is evaluated on them. An epoch then reads a few kilobytes an image, and most datasets fit a GPU's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipkd.core.artifacts import MANIFEST, Artifact, building
from clipkd.core.fingerprint import Identity
from clipkd.core.prefetch import by_cores
from clipkd.core.progress import progress
from clipkd.data.dataset import Dataset, Ragged
from clipkd.data.packing import write_even, write_ragged
from clipkd.data.pixels import square


@dataclass(frozen=True)
class Thumbnails:
    """Opened, checked thumbnails."""

    train: Ragged
    """Training images, short side at the student's size."""
    test: np.ndarray
    """Test images, uint8 [M, S, S, 3], memory-mapped."""
    validation: np.ndarray
    """Training images that are held out, in the order of `Dataset.validation`, uint8 [V, S, S, 3]."""

    @property
    def side(self) -> int:
        """S, in pixels."""
        return self.test.shape[1]


def thumbnail_sizes(sizes: np.ndarray, side: int) -> np.ndarray:
    """Return the sizes [N, 2] of images whose short side is brought from `sizes` to `side`, as torchvision does."""
    sizes = sizes.astype(np.int64)
    return side * sizes // sizes.min(axis=1, keepdims=True)


def thumbnail(image: np.ndarray, side: int) -> np.ndarray:
    """Return an 8-bit image [H, W, 3] with its short side at `side` (PIL, bilinear, antialiased)."""
    height, width = thumbnail_sizes(np.array([image.shape[:2]]), side)[0].tolist()
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def write_thumbnails(dataset: Dataset, side: int, folder: Path, identity: Identity) -> None:
    """Make the thumbnails of a dataset for students of `side` pixels."""
    title = f"{dataset.spec.title} at {side} px"
    held_out = dataset.validation
    with building(folder, "thumbnails", identity, replace=(folder / MANIFEST).exists()) as draft:
        train = made(dataset, "train", np.arange(len(dataset.train_labels)), lambda image: thumbnail(image, side))
        shown = progress(train, len(dataset.train_labels), f"{title}: training images", "images")
        shapes = write_ragged(draft.path / "train-images.npy", shown, len(dataset.train_labels))
        np.save(draft.path / "train-shapes.npy", shapes)
        for name, split, rows in (
            ("test", "test", np.arange(len(dataset.test_labels))),
            ("validation", "train", held_out),
        ):
            squares = made(dataset, split, rows, lambda image: square(image, side))
            shown = progress(squares, len(rows), f"{title}: {name} images", "images")
            write_even(draft.path / f"{name}-images.npy", shown, (len(rows), side, side, 3))
        draft.facts |= {"dataset_content": dataset.content, "side": side}


def made(
    dataset: Dataset, split: str, rows: np.ndarray, change: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Return a split's images in the order of `rows`, each changed, by a few threads."""
    images = dataset.images(split)  # type: ignore[arg-type]
    return (image for _, image in by_cores(lambda row: change(images[row]), rows.tolist(), ahead=8))


def open_thumbnails(artifact: Artifact) -> Thumbnails:
    """Return the arrays of an opened artefact."""
    train = Ragged(artifact.array("train-images"), np.array(artifact.array("train-shapes")))
    return Thumbnails(train, artifact.array("test-images"), artifact.array("validation-images"))
