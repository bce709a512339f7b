"""The packed dataset: decoded once into uint8 arrays with a manifest, memory-mapped from then on.

Images of one size lie in `<split>-images.npy` [N, H, W, 3]. Images of several sizes lie end to end
in a flat `<split>-images.npy`, and `<split>-shapes.npy` [N, 3] says where each begins: offset,
height, width.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np

from clipkd.core.artifacts import MANIFEST, Artifact, Draft, building, open_artifact
from clipkd.core.errors import DataError, MachineError
from clipkd.core.files import sha256
from clipkd.core.fingerprint import digest
from clipkd.core.progress import progress, say
from clipkd.core.unlabelled import FEW_HELD_OUT, UNLABELLED
from clipkd.data.image_digests import as_array, digest_of
from clipkd.data.packing import share_held_out, validation_rows, write_even, write_ragged
from clipkd.data.source_files import LISTING, listed, packed_from
from clipkd.data.summary import Seen, pixel_facts, summary
from clipkd.plugins.datasets import DOWNLOADS, DatasetSpec, Reading, Split, refuse_other_source

SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, SplitName] = ("train", "test")
LABELS = ("train-labels.npy", "test-labels.npy", "validation.npy")


class Ragged(Sequence[np.ndarray]):
    """Images of several sizes, N arrays uint8 [H, W, 3], read from the disk as they are asked for."""

    def __init__(self, pixels: np.ndarray, shapes: np.ndarray) -> None:
        self.pixels = pixels
        self.shapes = shapes

    def __len__(self) -> int:
        return len(self.shapes)

    @overload
    def __getitem__(self, row: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, row: slice) -> list[np.ndarray]: ...
    def __getitem__(self, row: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        offset, height, width = (int(value) for value in self.shapes[row])
        return self.pixels[offset : offset + height * width * 3].reshape(height, width, 3)


@dataclass(frozen=True)
class Dataset:
    """An opened, checked dataset."""

    spec: DatasetSpec
    artifact: Artifact

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of their numbers."""
        return self.artifact.facts["classes"]

    @property
    def content(self) -> str:
        """The sha256 that stands for the bytes of all arrays."""
        return self.artifact.facts["content"]

    @cached_property
    def train_labels(self) -> np.ndarray:
        """Class numbers of the training images, int64 [N]; UNLABELLED where the source gives none."""
        return np.array(self.artifact.array("train-labels"))

    @property
    def labelled_training(self) -> np.ndarray:
        """Those of `training` that have a label."""
        return self.training[self.train_labels[self.training] >= 0]

    @cached_property
    def test_labels(self) -> np.ndarray:
        """Class numbers of the test images, int64 [M]."""
        return np.array(self.artifact.array("test-labels"))

    @cached_property
    def validation(self) -> np.ndarray:
        """Rows of `train` that are held out to choose epochs and probes, int64, ascending."""
        return np.array(self.artifact.array("validation"))

    @cached_property
    def training(self) -> np.ndarray:
        """Rows of `train` that are not held out, int64, ascending."""
        return np.setdiff1d(np.arange(len(self.train_labels)), self.validation)

    def names(self, split: SplitName) -> list[str] | None:
        """Return the file of each image of a split, `train/<class>/...`; None where the packed dataset keeps none."""
        name = f"{split}-names.npy"
        if name not in self.artifact.manifest["files"]:
            return None
        checked = open_artifact(self.artifact.path, "dataset", self.spec.identity(), only=(name,))
        return [one.decode() for one in checked.array(f"{split}-names").tolist()]

    def digests(self, split: SplitName) -> np.ndarray:
        """Return the digest of each image of a split, uint8 [N, 16]; computed where an older version packed them."""
        name = f"{split}-digests.npy"
        if name not in self.artifact.manifest["files"]:
            say(f"{self.spec.title}: an older version packed it, without digests of {split} images: computing them")
            return as_array(map(digest_of, self.images(split)))
        checked = open_artifact(self.artifact.path, "dataset", self.spec.identity(), only=(name,))
        return np.array(checked.array(f"{split}-digests"))

    def labels(self, split: SplitName) -> np.ndarray:
        """Return the class numbers of a split, int64 [N]."""
        return self.train_labels if split == "train" else self.test_labels

    @cached_property
    def opened(self) -> dict[SplitName, np.ndarray | Ragged]:
        ragged = self.artifact.facts["ragged"]
        pixels = {split: self.artifact.array(f"{split}-images") for split in SPLITS}
        return {
            split: Ragged(pixels[split], np.array(self.artifact.array(f"{split}-shapes"))) if ragged else pixels[split]
            for split in SPLITS
        }

    def images(self, split: SplitName) -> np.ndarray | Ragged:
        """Return a split's images: uint8 [N, H, W, 3], memory-mapped, or `Ragged` where sizes differ."""
        return self.opened[split]

    def sizes(self, split: SplitName) -> np.ndarray:
        """Return height and width of each image, in pixels, int64 [N, 2]."""
        images = self.images(split)
        return images.shapes[:, 1:] if isinstance(images, Ragged) else np.tile(images.shape[1:3], (len(images), 1))

    def image(self, split: SplitName, row: int) -> np.ndarray:
        """Return one image, uint8 [H, W, 3]."""
        return self.images(split)[row]


Opener = Callable[..., Artifact]


def open_dataset(
    spec: DatasetSpec,
    folder: Path,
    with_images: bool = True,
    opener: Opener = open_artifact,
    source: str | None = None,
) -> Dataset:
    """Open a packed dataset, every byte checked.

    Args:
        spec: the dataset.
        folder: where it lies.
        with_images: False where only labels are read: images are then neither needed nor checked.
        opener: `open_artifact`, or `open_near` where images are read over and over.
        source: where the user says the data are, to tell how to pack them.

    Raises:
        DataError: it is missing, damaged, or packed from something else; says how to make it.
    """
    try:
        return Dataset(spec, opener(folder, "dataset", spec.identity(), None if with_images else LABELS))
    except DataError as error:
        given = shlex.quote(source) if source else "FOLDER" if spec.needs_source else None
        where = f" --dataset-source {given}" if given else ""
        raise DataError(f"{error}; run `clipkd download {spec.name}{where}`") from None


def prepare_dataset(
    spec: DatasetSpec,
    folder: Path,
    source: str | None = None,
    with_images: bool = True,
    opener: Opener = open_artifact,
    overwrite: bool = False,
) -> Dataset:
    """Open the packed dataset, or read it from its source and pack it.

    Args:
        spec: the dataset.
        folder: where the packed dataset lies.
        source: where the data are, if not at the official place.
        with_images, opener: as for `open_dataset`.
        overwrite: pack it whether or not it is there; what is there is replaced when the new one is complete.

    Raises:
        DataError: the source's data are damaged or incomplete; names the file, member or class.
        InputError, MachineError: the source is wrong, out of reach, or another folder than the dataset was packed
            from; the disk is full.
    """
    if (folder / MANIFEST).exists() and overwrite:
        refuse_other_source(spec, folder, source)
    elif (folder / MANIFEST).exists():
        try:
            found = opener(folder, "dataset", spec.identity(), None if with_images else LABELS)
        except DataError as error:
            say(f"{spec.title} is packed again: {re.sub('; delete [^;:]* to regenerate it', '', str(error))}")
        else:
            refuse_other_source(spec, folder, source)
            return Dataset(spec, found)
    local = spec.local_files(source)
    listing = None if local is None else listed(local)  # before it is read: what changes meanwhile is a change
    reading = spec.read(source, folder.parent / DOWNLOADS)
    check(spec, reading)
    try:
        with building(folder, "dataset", spec.identity(), replace=overwrite) as draft:
            pack(spec, reading, draft)
            if local is not None and listing is not None:
                np.save(draft.path / LISTING, listing)
                draft.facts |= packed_from(local, folder, listing)
    except OSError as error:
        raise MachineError(f"{spec.title}: can't write {folder}: {error.strerror or error}") from error
    packed = open_dataset(spec, folder)
    say(summary(spec, packed.artifact.facts))
    return packed


def check(spec: DatasetSpec, reading: Reading) -> None:
    """Raise DataError where class names and labels are not what they must be; no image is read here."""
    names = reading.classes
    if spec.classes is not None and len(names) != spec.classes:
        raise DataError(f"{spec.title} has {spec.classes} classes, its source names {len(names)}")
    if not names and not len(reading.test.labels) and (reading.train.labels == UNLABELLED).all():
        return  # a folder of images, none of which has a label
    if reading.validation is not None and not len(reading.validation):
        raise DataError(
            f"{spec.title}: there is no validation image; without that split some training images are held out"
        )
    if len(names) < 2:
        raise DataError(f"{spec.title} has one class only, {names}; a dataset has at least two")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{spec.title}: two classes are both named {', '.join(map(repr, repeated))}")
    for split in SPLITS:
        labels = getattr(reading, split).labels
        if labels.dtype != np.int64 or labels.ndim != 1:
            raise DataError(f"{spec.title}: {split} labels are {labels.dtype} {labels.shape}, not int64 [N]")
        lowest = UNLABELLED if split == "train" else 0
        wrong = np.flatnonzero((labels < lowest) | (labels >= len(names)))
        if len(wrong):
            raise DataError(
                f"{spec.title}: {split} image {wrong[0]} has the label {labels[wrong[0]]}; "
                f"there are {len(names)} classes, numbered from 0"
            )
        held_out = reading.validation if split == "train" else None
        empty = without_image(labels if held_out is None else np.delete(labels, held_out), names)
        if empty:
            raise DataError(f"{spec.title}: no {split} image of class {', '.join(map(repr, empty))}")


def without_image(labels: np.ndarray, names: list[str]) -> list[str]:
    """Return the classes of which no image has the label."""
    return [names[number] for number in np.flatnonzero(np.bincount(labels[labels >= 0], minlength=len(names)) == 0)]


def pack(spec: DatasetSpec, reading: Reading, draft: Draft) -> None:
    """Write a reading's arrays and facts."""
    seen = {split: Seen() for split in SPLITS}
    for split in SPLITS:
        read: Split = getattr(reading, split)
        np.save(draft.path / f"{split}-labels.npy", read.labels)
        images = seen[split].watching(read.images)
        images = progress(images, len(read.labels), f"{spec.title}: packing {split}", "images")
        path = draft.path / f"{split}-images.npy"
        if spec.image_size is not None:
            write_even(path, images, (len(read.labels), spec.image_size, spec.image_size, 3))
        else:
            np.save(draft.path / f"{split}-shapes.npy", write_ragged(path, images, len(read.labels)))
    found = reading.complete()
    held_out, unlabelled = reading.validation, int((reading.train.labels < 0).sum())
    lacks = [] if held_out is None else without_image(reading.train.labels[held_out], reading.classes)
    if held_out is None:
        known = len(reading.train.labels) - unlabelled
        share = share_held_out(spec.validation_fraction, spec.validation_least, known)
        # Where few are labelled, as large a part as of `labels: N`.
        share = max(share, FEW_HELD_OUT) if unlabelled else share
        held_out = validation_rows(reading.train.labels, share, reading.classes)
    np.save(draft.path / "validation.npy", held_out)
    draft.facts |= (
        reading.facts
        | found
        | pixel_facts(seen, reading.train.labels, {split: getattr(reading, split).names for split in SPLITS})
        | {
            "classes": reading.classes,
            "ragged": spec.image_size is None,
            "augmentation": spec.augmentation,
            "train": len(reading.train.labels),
            "test": len(reading.test.labels),
            "validation": len(held_out),
            **({"unlabelled": unlabelled} if unlabelled else {}),
            **({"validation_lacks": lacks} if lacks else {}),
            "content": digest({path.name: sha256(path) for path in sorted(draft.path.iterdir())}),
        }
    )
    # After the digest: what the files are called, and what is computed of the images, is no part of the content.
    for split in SPLITS:
        np.save(draft.path / f"{split}-digests.npy", as_array(seen[split].digests))
        names = getattr(reading, split).names
        if names is not None:
            np.save(draft.path / f"{split}-names.npy", np.array([name.encode() for name in names]))
