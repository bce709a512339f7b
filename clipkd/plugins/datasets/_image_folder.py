"""Reading a folder of images: `train/<class>/*` and `val/<class>/*`, listed as torchvision lists it.

Images become 8-bit RGB as torchvision's own loader makes them: the first frame, alpha dropped, EXIF
orientation ignored, CMYK and palettes converted by PIL. Grey images of 16 bits are scaled to 8, which
PIL alone would clip. An image whose short side exceeds the packing size is brought down to it with
PIL's bicubic filter (antialiased): a little sharper than bilinear, without Lanczos's halos, so that the
later crops lose the least.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipkd.core.errors import DataError, InputError
from clipkd.core.images import decoded_files
from clipkd.plugins.datasets import Reading, Split


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
    from clipkd.core.vision import torchvision  # noqa: F401  (makes the import below work everywhere)

    from torchvision.datasets import ImageFolder  # isort: skip

    try:
        found = ImageFolder(str(folder), allow_empty=True)  # an empty class is named when labels are checked
    except FileNotFoundError:
        raise DataError(f"{folder} has no class folders: images belong into {folder}/<class>/") from None
    paths = [Path(path) for path, _ in found.samples]
    return found.classes, Split(np.array(found.targets, dtype=np.int64), decoded_files(paths, pack_size))
