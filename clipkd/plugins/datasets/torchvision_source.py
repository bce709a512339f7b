"""Datasets of torchvision, by name. Those that torchvision reads through pickle (its CIFAR) are not among them."""

from __future__ import annotations

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any

from clipkd.core.errors import InputError, nearest
from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DatasetSpec,
    Reading,
    options_of,
    size_options,
)

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


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(DatasetSpec):
    """A class of torchvision.datasets; it downloads its files itself and checks their md5."""

    dataset: str
    root: str
    """A folder that holds the files already; "": they are downloaded."""
    needs_source: bool = True
    pack_size: int = 256
    """Images whose short side is longer are packed with this short side, in pixels."""

    def source_identity(self) -> Identity:
        splits = [dict(split) for split in KNOWN[self.dataset][0]]
        return {"torchvision": self.dataset, "splits": splits, "size": self.image_size, "pack_size": self.pack_size}

    def read(self, source: str | None, downloads: Path) -> Reading:
        from clipkd.plugins.datasets._torchvision import read

        return read(
            self, Path(expanduser(self.root)) if self.root else downloads / "torchvision", download=not self.root
        )


def from_source(name: str, where: str) -> TorchvisionDataset:
    """Return the dataset that `NAME?root=FOLDER` describes.

    Raises:
        InputError: torchvision's dataset is unknown here, or an option is.
    """
    dataset, options = options_of(name, where, {"root": ""})
    known = {one.lower(): one for one in KNOWN}
    if dataset.lower() not in known:
        own = " (CIFAR-10 and CIFAR-100 are datasets of clipkd itself)" if dataset.lower().startswith("cifar") else ""
        raise InputError(
            f"dataset '{name}': torchvision's '{dataset}' is not one that is read here{nearest(dataset, KNOWN)} "
            f"(known: {', '.join(KNOWN)}){own}"
        )
    key = known[dataset.lower()]
    return TorchvisionDataset(
        name=name, title=name, classes=None, mean=IMAGENET_MEAN, std=IMAGENET_STD, dataset=key, root=options["root"],
        **size_options(name, str(KNOWN[key][1] or "")),
    )  # fmt: skip
