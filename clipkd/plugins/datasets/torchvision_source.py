"""Datasets of torchvision, by name. Those that torchvision reads through pickle (its CIFAR) are not among them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkd.core.errors import DataError, InputError, MachineError, nearest
from clipkd.core.fingerprint import Identity
from clipkd.core.progress import say
from clipkd.plugins.datasets import IMAGENET_MEAN, IMAGENET_STD, LocalFiles, Reading, Split
from clipkd.plugins.datasets._source_options import (
    DECODING_OPTIONS,
    DecodedDataset,
    decoding_options,
    options_of,
    size_options,
)

if TYPE_CHECKING:
    from clipkd.core.image_reader import ImageReader

TRAIN_TEST: tuple[dict[str, Any], dict[str, Any]] = ({"split": "train"}, {"split": "test"})
TRAIN_OR_NOT: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
KNOWN: dict[str, tuple[tuple[dict[str, Any], dict[str, Any]], int | None]] = {
    "Country211": (TRAIN_TEST, None),
    "DTD": (TRAIN_TEST, None),
    "FGVCAircraft": (({"split": "trainval"}, {"split": "test"}), None),
    "FashionMNIST": (TRAIN_OR_NOT, 28),
    "Flowers102": (TRAIN_TEST, None),
    "Food101": (TRAIN_TEST, None),
    "GTSRB": (TRAIN_TEST, None),
    "Imagenette": (({"split": "train"}, {"split": "val"}), None),
    "KMNIST": (TRAIN_OR_NOT, 28),
    "MNIST": (TRAIN_OR_NOT, 28),
    "OxfordIIITPet": (({"split": "trainval"}, {"split": "test"}), None),
    "STL10": (TRAIN_TEST, 96),
    "SVHN": (TRAIN_TEST, 32),
    "USPS": (TRAIN_OR_NOT, 16),
}
"""Name -> what asks torchvision for the training and the test split, and the side of every image where all share it."""
FILES = {name: (name,) for name in ("FashionMNIST", "KMNIST", "MNIST")} | {
    "Country211": ("country211",),
    "DTD": ("dtd",),
    "FGVCAircraft": ("fgvc-aircraft-2013b",),
    "Flowers102": ("flowers-102",),
    "Food101": ("food-101",),
    "GTSRB": ("gtsrb",),
    "Imagenette": ("imagenette2",),
    "OxfordIIITPet": ("oxford-iiit-pet",),
    "STL10": ("stl10_binary",),
    "SVHN": ("train_32x32.mat", "test_32x32.mat"),
    "USPS": ("usps.bz2", "usps.t.bz2"),
}
"""What torchvision reads of the folder that it is given, in which other datasets may lie too."""
SYNONYMS = {"Imagenette"}
"""Datasets whose classes torchvision calls by several words each: the first is the name."""
UNMIRRORED = {"KMNIST": "none", "MNIST": "none", "SVHN": "none", "USPS": "none", "GTSRB": "crop"}
"""Where a mirrored image is another symbol or none: what is done to training images instead."""
LABELS = ("targets", "labels", "_labels")
"""Where the classes of torchvision.datasets keep their labels."""
SILENCE = 30.0
"""Seconds after which a server that sends nothing to torchvision is given up."""
NOT_DOWNLOADED = "Error downloading"
"""How the message begins that torchvision raises where each mirror of a file has failed: of MNIST and its kin."""

DAMAGE = (OSError, RuntimeError, ValueError, AssertionError, LookupError, EOFError)
"""What torchvision raises where files are missing or damaged; urllib's errors and those of bz2 are OSErrors."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(DecodedDataset):
    """A class of torchvision.datasets; it downloads its files itself and checks their md5."""

    dataset: str
    root: str
    """A folder that holds the files already; "": they are downloaded."""
    validation_fraction: float = 0.1

    def source_identity(self) -> Identity:
        splits = [dict(split) for split in KNOWN[self.dataset][0]]
        identity = {"torchvision": self.dataset, "splits": splits, "size": self.image_size}
        names = {"names": "first"} if self.dataset in SYNONYMS else {}
        return identity | names | self.decoding_identity()

    def local_files(self, source: str | None) -> LocalFiles | None:
        return LocalFiles(Path(expanduser(self.root)), FILES[self.dataset]) if self.root else None

    def read(self, source: str | None, downloads: Path) -> Reading:
        root = Path(expanduser(self.root)) if self.root else downloads / "torchvision"
        return read(self, root, download=not self.root)


def from_source(name: str, where: str) -> TorchvisionDataset:
    """Return the dataset that `NAME?root=FOLDER` describes.

    Raises:
        InputError: torchvision's dataset is unknown here, or an option is.
    """
    dataset, options = options_of(name, where, {"root": "", "augment": "", "pack": ""} | DECODING_OPTIONS)
    known = {one.lower(): one for one in KNOWN}
    if dataset.lower() not in known:
        own = " (CIFAR-10 and CIFAR-100 are datasets of clipkd itself)" if dataset.lower().startswith("cifar") else ""
        raise InputError(
            f"dataset '{name}': torchvision's '{dataset}' is not one that is read here{nearest(dataset, KNOWN)} "
            f"(known: {', '.join(KNOWN)}){own}"
        )
    key = known[dataset.lower()]
    augment = options["augment"] or UNMIRRORED.get(key, "")
    return TorchvisionDataset(
        name=name, title=name, classes=None, mean=IMAGENET_MEAN, std=IMAGENET_STD, dataset=key, root=options["root"],
        **size_options(name, str(KNOWN[key][1] or ""), augment, options["pack"]), **decoding_options(name, options),
    )  # fmt: skip


def read(spec: TorchvisionDataset, root: Path, download: bool) -> Reading:
    """Read both splits.

    Raises:
        MachineError: the files can't be downloaded.
        InputError: the folder that is to hold them does not exist.
        DataError: they are not there, or damaged.
    """
    if download:
        root.mkdir(parents=True, exist_ok=True)
    elif not root.is_dir():
        raise InputError(
            f"dataset '{spec.name}': folder {root} does not exist; leave ?root= out to download {spec.dataset}"
        )
    train, test = (opened(spec, split, root, download) for split in KNOWN[spec.dataset][0])
    labels = [labels_of(split) for split in (train, test)]
    classes: Any = getattr(train, "classes", None) or range(int(max(map(np.max, labels))) + 1)
    names = [str(one[0] if spec.dataset in SYNONYMS else one) for one in classes]
    reader = spec.reader()
    first, second = (Split(labels[part], images(split, spec, reader)) for part, split in enumerate((train, test)))
    return Reading(names, first, second, complete=lambda: {"reading": reader.complete()})


def opened(spec: TorchvisionDataset, split: dict[str, Any], root: Path, download: bool) -> Any:
    """Return one split of torchvision's dataset."""
    from clipkd.core.vision import torchvision

    kind = getattr(torchvision.datasets, spec.dataset)
    where = f"dataset '{spec.name}', {spec.dataset} of torchvision in {root}"
    asked = next(iter(split.values()))
    name = {True: "train", False: "test"}.get(asked, asked)
    say(f"{spec.title}: torchvision's {spec.dataset}, split {name}")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)  # torchvision's own downloads would wait for ever
    try:
        return kind(root, download=download, **split)
    except DAMAGE as error:
        if download and (isinstance(error, OSError) or str(error).startswith(NOT_DOWNLOADED)):
            raise MachineError(f"{where}: {' '.join(str(error).split())}; is there a network?") from error
        why = str(error) or "a file is damaged"  # an assertion of torchvision has no words
        advice = "" if download else "; give the folder that holds its files, or leave ?root= out to download them"
        raise DataError(f"{where}: {why}{advice}") from error
    finally:
        socket.setdefaulttimeout(before)


def labels_of(split: Any) -> np.ndarray:
    """Return a split's class numbers, int64 [N]."""
    for name in LABELS:
        if hasattr(split, name):
            return np.asarray(getattr(split, name), dtype=np.int64)
    return np.array([label for _, label in split._samples], dtype=np.int64)


def images(split: Any, spec: TorchvisionDataset, reader: ImageReader) -> Iterator[np.ndarray]:
    """Yield a split's images, uint8 [H, W, 3]."""
    for row in range(len(split)):
        where = f"{spec.dataset} of torchvision, image {row}"
        try:
            image = split[row][0]
        except Exception as error:  # PIL's decoders raise nearly anything on damaged bytes
            raise DataError(f"{where} can't be read ({type(error).__name__}: {error})") from error
        yield reader.opened(image, where)
