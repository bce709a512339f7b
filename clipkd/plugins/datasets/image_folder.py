"""Any folder of images: `train/<class>/*` and `val/<class>/*`, as torchvision's ImageFolder reads it.

Images become 8-bit RGB as torchvision's own loader makes them: the first frame, alpha dropped, EXIF
orientation ignored, CMYK and palettes converted by PIL. Grey images of 16 bits are scaled to 8, which
PIL alone would clip. An image whose short side exceeds the packing size is resized to it with PIL's
bicubic filter (antialiased): a little sharper than bilinear, without Lanczos's halos, so that the
later crops lose the least.
"""

from __future__ import annotations

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

import numpy as np

from clipkd.core.errors import DataError, InputError
from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import IMAGENET_MEAN, IMAGENET_STD, DatasetSpec, Reading, Split


@dataclass(frozen=True)
class ImageFolder(DatasetSpec):
    """A folder that the user has; it is never downloaded."""

    image_size: int | None = None
    classes: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    augmentation: str = "random-resized-crop"  # type: ignore[assignment]
    validation_fraction: float = 0.02
    needs_source: bool = True
    pack_size: int = 256
    """Images whose short side is longer are packed with this short side, in pixels."""

    def source_identity(self) -> Identity:
        # The content is only known once it is read: the packed manifest keeps its digest, and
        # whatever is made from the dataset is checked against that.
        return {"image_folder": self.name, "pack_size": self.pack_size}

    def folder(self, source: str | None) -> Path | None:
        return None if source is None else Path(expanduser(source))

    def known_classes(self, source: str | None) -> list[str] | None:
        folder = self.folder(source)
        if folder is None:
            return None
        try:
            return sorted(entry.name for entry in (folder / "train").iterdir() if entry.is_dir())
        except OSError:
            return None  # it is packed already, or `read` says what is wrong

    def read(self, source: str | None, downloads: Path) -> Reading:
        folder = self.folder(source)
        if folder is None:
            raise InputError(
                f"dataset '{self.name}' is a folder of images that is never downloaded: say where it is, "
                f"with --dataset-source FOLDER or in the config as sources: {{{self.name}: FOLDER}}"
            )
        return read(folder, self.pack_size)


def read(folder: Path, pack_size: int) -> Reading:
    """Read a folder of images.

    Args:
        folder: holds `train/` and `val/`, with one folder per class in each.
        pack_size: images with a longer short side are resized to it, in pixels.

    Raises:
        InputError: there is no such folder, or no `train/` or `val/` in it.
        DataError: both splits' classes differ (all are listed); an image can't be decoded (it is named).
    """
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist")
    missing = [name for name in ("train", "val") if not (folder / name).is_dir()]
    if missing:
        raise InputError(f"image folder {folder} has no {' and no '.join(f'{name}/' for name in missing)}")
    train_classes, train = listing(folder / "train", pack_size)
    val_classes, val = listing(folder / "val", pack_size)
    if train_classes != val_classes:
        lines = [
            f"only in {folder / here}: {', '.join(sorted(only))}"
            for here, only in (("train", {*train_classes} - {*val_classes}), ("val", {*val_classes} - {*train_classes}))
            if only
        ]
        raise DataError(f"the classes of {folder}/train and {folder}/val differ:\n  " + "\n  ".join(lines))
    return Reading(train_classes, train, val)


def listing(folder: Path, pack_size: int) -> tuple[list[str], Split]:
    """Return the class names of one split's folder, and its images; none of them is opened yet."""
    from clipkd.core.images import decoded_files
    from clipkd.core.vision import torchvision

    try:
        found = torchvision.datasets.ImageFolder(
            str(folder), allow_empty=True
        )  # an empty class is named when labels are checked
    except FileNotFoundError:
        raise DataError(f"{folder} has no class folders: images belong into {folder}/<class>/") from None
    paths = [Path(path) for path, _ in found.samples]
    return found.classes, Split(np.array(found.targets, dtype=np.int64), decoded_files(paths, pack_size))
