"""Any folder of images: `train/<class>/*` and `val/<class>/*` or `test/<class>/*`, in the order of torchvision.

Or images without any label: in the folder, in `train/` or in `unlabeled/`.

Images become 8-bit RGB as viewers show them (clipkd.core.images): the first frame, upright, on white where they are
transparent, CMYK and palettes converted by PIL. An image whose short side exceeds the packing size is resized to it
with PIL's bicubic filter (antialiased): a little sharper than bilinear, without Lanczos's halos, so that the later
crops lose the least.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import read_manifest
from clipkd.core.errors import MOST_NAMED, DataError, InputError, nearest
from clipkd.core.files import printable
from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    DatasetSpec,
    LocalFiles,
    Reading,
    Split,
    is_packed,
    path_of,
)
from clipkd.plugins.datasets._labels_file import has_labels_file
from clipkd.plugins.datasets._listing import (
    UNLABELLED_FOLDERS,
    VALIDATION,
    Listing,
    Splits,
    Walk,
    class_folders,
    classes_of,
    is_hidden,
    labels_note,
    names_some_only,
    overridden,
    splits_of,
    unlabelled_folder,
)
from clipkd.plugins.datasets._source_options import (
    DECODING_OPTIONS,
    DecodedDataset,
    decoding_options,
    options_of,
    size_options,
)

OPTIONS = {"size": "", "augment": "", "pack": ""} | DECODING_OPTIONS
"""The options after the `?`, with their defaults."""


@dataclass(frozen=True)
class ImageFolder(DecodedDataset):
    """A folder that the user has; it is never downloaded."""

    image_size: int | None = None
    classes: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    augmentation: Augmentation = "crop+flip"
    validation_fraction: float = 0.02
    validation_least: int = 500

    def source_identity(self) -> Identity:
        # The content is only known once it is read: the packed manifest keeps its digest, and
        # whatever is made from the dataset is checked against that.
        return {"image_folder": self.name, "size": self.image_size or ""} | self.decoding_identity()

    def of_source(self, source: str) -> DatasetSpec:
        options = packed_options(source) if is_packed(self, source) else options_of_folder(self.name, source)
        sizes = size_options(self.name, options["size"], options["augment"], options["pack"])
        return replace(self, **sizes, **decoding_options(self.name, options))

    def folder(self, source: str | None) -> Path | None:
        return None if source is None else Path(path_of(source))

    def local_files(self, source: str | None) -> LocalFiles | None:
        folder = self.folder(source)
        if folder is None:
            return None
        if unlabelled_folder(folder) == folder:
            return LocalFiles(folder, (".",))
        return LocalFiles(folder, ("train", "test", *VALIDATION))

    def has_fewer_images(self, source: str | None, count: int) -> bool:
        folder = self.folder(source)
        if folder is None or not (folder / "train").is_dir():
            return False
        # Held-out images are trained on by some recipes. Not every file need be an image: it is a bound.
        files = (file for part in ("train", *VALIDATION) for *_, names in os.walk(folder / part, followlinks=True)
                 for file in names)  # fmt: skip
        return sum(1 for _ in islice(files, count)) < count

    def known_classes(self, source: str | None) -> list[str] | None:
        folder = self.folder(source)
        if folder is None:
            return None
        try:
            # No folder at all: `read` says what is wrong.
            return [] if unlabelled_folder(folder) else class_folders(folder / "train") or None
        except OSError:
            return None  # it is packed already, or `read` says what is wrong

    def check_source(self, source: str | None) -> None:
        folder = self.folder(source)
        if folder is None or not folder.is_dir() or unlabelled_folder(folder):
            return
        splits = splits_of(folder)
        first, *others = (classes_of(folder / name) for name in (splits.train, splits.test, splits.validation) if name)
        for other in others:
            refuse_other_classes(first, other)

    def leaves_unlabelled(self, source: str | None) -> bool:
        folder = self.folder(source)
        if folder is None:
            return False
        if has_labels_file(folder / "train"):
            return names_some_only(folder / "train")
        return any(True for name in UNLABELLED_FOLDERS for _ in (folder / "train" / name).glob("[!.]*"))

    def remarks(self, source: str | None) -> list[str]:
        folder = self.folder(source)
        if folder is None or not folder.is_dir() or unlabelled_folder(folder):
            return []
        splits = overridden_splits(
            folder, [name for name in ("train", *VALIDATION, "test") if (folder / name).is_dir()]
        )
        return [labels_note(split, folders) for split, folders in splits.items()]

    def read(self, source: str | None, downloads: Path) -> Reading:
        folder = self.folder(source)
        if folder is None:
            raise InputError(
                f"dataset '{self.name}' is a folder of images that is never downloaded: say where it is, "
                f"with --dataset-source FOLDER or in the config as sources: {{{self.name}: FOLDER}}"
            )
        return read(self, folder)


def options_of_folder(name: str, source: str) -> dict[str, str]:
    """Return the options of `FOLDER?option=value&...`, all of them; raise InputError where they are wrong."""
    options = expanduser(source).removeprefix(path_of(source))
    return options_of(name, options, OPTIONS)[1]


def packed_options(folder: str) -> dict[str, str]:
    """Return the options that a dataset was packed with, the usual ones where it is damaged or older."""
    try:
        manifest = read_manifest(Path(folder))
    except DataError:
        return dict(OPTIONS)
    source = manifest["identity"].get("source", {})
    packed = source | {"pack": source.get("pack_size", ""), "augment": manifest["facts"].get("augmentation", "")}
    return {name: str(packed.get(name, usual)) for name, usual in OPTIONS.items()}


def read(spec: ImageFolder, folder: Path) -> Reading:
    """Read a folder of images.

    Args:
        spec: what is known of it.
        folder: holds `train/`, and `val/` or `test/` or both, with one folder per class in each.

    Raises:
        InputError: there is no such folder, or it lacks a split.
        DataError: the splits' classes differ (all are listed), or a folder can't be listed. Images that can't be
            decoded are named by `Reading.complete`.
    """
    if root := unlabelled_folder(folder):
        return read_unlabelled(spec, folder, root)
    splits = splits_of(folder)
    walk = Walk(folder)
    train, test = walk.split(folder / splits.train), walk.split(folder / splits.test)
    held_out = walk.split(folder / splits.validation) if splits.validation else Listing(folder)
    for other in (test, held_out) if splits.validation else (test,):
        refuse_other_classes(train, other)
        refuse_unlabelled(other)
    training = train.paths + held_out.paths
    reader = spec.reader(lambda: [*training, *test.paths])
    used = [name for name in (splits.train, splits.validation, splits.test) if name]
    labels_files = {"labels_files": files} if (files := overridden_splits(folder, used)) else {}

    def complete() -> dict[str, Any]:
        return {"reading": reader.complete() | left_out(splits, walk) | labels_files}

    return Reading(
        train.classes,
        Split(
            np.array(train.labels + held_out.labels, dtype=np.int64), reader.files(training), names(folder, training)
        ),
        Split(np.array(test.labels, dtype=np.int64), reader.files(test.paths), names(folder, test.paths)),
        validation=np.arange(len(train.paths), len(training)) if splits.validation else None,
        complete=complete,
    )


def read_unlabelled(spec: ImageFolder, folder: Path, root: Path) -> Reading:
    """Read a folder of images none of which has a label: all are training images, and none is held out."""
    walk = Walk(folder.resolve().parent)
    train = walk.without_labels(root)
    reader = spec.reader(lambda: train.paths)
    others = sorted(path.name for path in folder.iterdir() if path != root and not is_hidden(path.name))
    beside = {"beside_the_splits": list(map(printable, others[:MOST_NAMED]))} if others and root != folder else {}
    return Reading(
        [],
        Split(np.array(train.labels, dtype=np.int64), reader.files(train.paths), names(folder, train.paths)),
        Split(np.zeros(0, dtype=np.int64), [], []),
        validation=np.zeros(0, dtype=np.int64),
        complete=lambda: {"reading": reader.complete() | walk.left_out() | beside},
    )


def names(folder: Path, paths: list[Path]) -> list[str]:
    """Return what images are called, from a dataset's folder on."""
    return [printable(path.relative_to(folder).as_posix()) for path in paths]


def overridden_splits(folder: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Return split -> the folders in it that its file of labels overrides."""
    return {name: folders for name in names if (folders := overridden(folder / name))}


def refuse_other_classes(one: Listing, other: Listing) -> None:
    """Raise DataError unless two splits have the same classes."""
    lines = []
    for here, there in ((one, other), (other, one)):
        alone = sorted(set(here.classes) - set(there.classes))
        named = [here.named(name) + (nearest(name, there.classes) if here.lines else "") for name in alone]
        lines += [f"only in {here.folder}: {', '.join(named)}"] if named else []
        if not here.lines and any(name.casefold() in UNLABELLED_FOLDERS for name in alone):
            lines.append(f"images without a label lie in a folder named `{UNLABELLED_FOLDERS[0]}`")
    if lines:
        kind = InputError if one.lines or other.lines else DataError
        raise kind(f"the classes of {one.folder} and {other.folder} differ:\n  " + "\n  ".join(lines))


def refuse_unlabelled(split: Listing) -> None:
    """Raise InputError where an image of a split that is evaluated on has no label."""
    without = [printable(path) for path, label in zip(split.paths, split.labels, strict=True) if label < 0]
    if without:
        raise InputError(
            f"{split.folder}: images to test or validate on need labels; {len(without):,} have none, for example "
            f"{without[0]}. Give them labels, or move them to train/unlabeled/"
        )


def left_out(splits: Splits, walk: Walk) -> dict[str, Any]:
    """Return which folder became which split and what was not read, as facts of the dataset."""
    found: dict[str, Any] = {"splits": {"train": splits.train, "test": splits.test}}
    if splits.validation:
        found["splits"]["validation"] = splits.validation
    if splits.unused:
        found["beside_the_splits"] = [printable(name) for name in splits.unused[:MOST_NAMED]]
    return found | walk.left_out()
