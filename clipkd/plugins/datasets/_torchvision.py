"""Reading a dataset through its class in torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.errors import DataError, MachineError
from clipkd.core.images import rgb
from clipkd.core.progress import say
from clipkd.plugins.datasets import Reading, Split
from clipkd.plugins.datasets.torchvision_source import KNOWN, TorchvisionDataset

LABELS = ("targets", "labels", "_labels")
"""Where the classes of torchvision.datasets keep their labels."""

NOT_DOWNLOADED = "Error downloading"
"""How the message begins that torchvision raises where each mirror of a file has failed: of MNIST and its kin."""


def read(spec: TorchvisionDataset, root: Path, download: bool) -> Reading:
    """Read both splits.

    Raises:
        MachineError: the files can't be downloaded.
        DataError: they are not there, or damaged.
    """
    root.mkdir(parents=True, exist_ok=True)
    train, test = (opened(spec, split, root, download) for split in KNOWN[spec.dataset][0])
    labels = [labels_of(split) for split in (train, test)]
    names = [str(name) for name in getattr(train, "classes", None) or range(int(max(map(np.max, labels))) + 1)]
    return Reading(names, Split(labels[0], images(train, spec)), Split(labels[1], images(test, spec)))


def opened(spec: TorchvisionDataset, split: dict[str, Any], root: Path, download: bool) -> Any:
    """Return one split of torchvision's dataset."""
    from clipkd.core.vision import torchvision

    kind = getattr(torchvision.datasets, spec.dataset)
    where = f"dataset '{spec.name}', {spec.dataset} of torchvision in {root}"
    asked = next(iter(split.values()))
    name = {True: "train", False: "test"}.get(asked, asked)
    say(f"{spec.title}: torchvision's {spec.dataset}, split {name}")
    try:
        return kind(root, download=download, **split)
    except OSError as error:  # urllib's errors are OSErrors
        raise MachineError(f"{where}: {error}; is there a network?") from error
    except (RuntimeError, ValueError) as error:
        if download and str(error).startswith(NOT_DOWNLOADED):
            raise MachineError(f"{where}: {' '.join(str(error).split())}; is there a network?") from error
        told = "; give the folder that holds its files, or leave ?root= out to download them" if not download else ""
        raise DataError(f"{where}: {error}{told}") from error


def labels_of(split: Any) -> np.ndarray:
    """Return a split's class numbers, int64 [N]."""
    for name in LABELS:
        if hasattr(split, name):
            return np.asarray(getattr(split, name), dtype=np.int64)
    return np.array([label for _, label in split._samples], dtype=np.int64)


def images(split: Any, spec: TorchvisionDataset) -> Iterator[np.ndarray]:
    """Yield a split's images, uint8 [H, W, 3]."""
    for row in range(len(split)):
        where = f"{spec.dataset} of torchvision, image {row}"
        try:
            image = split[row][0]
        except Exception as error:  # PIL's decoders raise nearly anything on damaged bytes
            raise DataError(f"{where} can't be read ({type(error).__name__}: {error})") from error
        yield rgb(image, where, spec.pack_size)
