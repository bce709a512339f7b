"""Reading a folder of images: `train/<class>/*` and `val/<class>/*`, listed as torchvision lists it.

Images become 8-bit RGB as torchvision's own loader makes them: the first frame, alpha dropped, EXIF
orientation ignored, CMYK and palettes converted by PIL. Grey images of 16 bits are scaled to 8, which
PIL alone would clip. An image whose short side exceeds the packing size is brought down to it with
PIL's bicubic filter (antialiased): a little sharper than bilinear, without Lanczos's halos, so that the
later crops lose the least.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from clipkd.data.ahead import ahead
from clipkd.datasets import Reading, Split
from clipkd.errors import DataError, InputError

MOST_PIXELS = 80_000_000
"""An image with more pixels is taken for a decompression bomb (PIL itself warns a little above)."""
MOST_THREADS = 16


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
    from clipkd.vision import torchvision  # noqa: F401  (makes the import below work everywhere)

    from torchvision.datasets import ImageFolder  # isort: skip

    try:
        found = ImageFolder(str(folder), allow_empty=True)  # an empty class is named when labels are checked
    except FileNotFoundError:
        raise DataError(f"{folder} has no class folders: images belong into {folder}/<class>/") from None
    paths = [Path(path) for path, _ in found.samples]
    return found.classes, Split(np.array(found.targets, dtype=np.int64), decoded(paths, pack_size))


def decoded(paths: Iterable[Path], pack_size: int) -> Iterator[np.ndarray]:
    """Yield the images of `paths` in order, decoded by a few threads a little ahead of their use."""
    threads = min(cores(), MOST_THREADS)
    for _, image in ahead(lambda path: decode(path, pack_size), paths, threads, 4 * threads):
        yield image


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode(path: Path, pack_size: int) -> np.ndarray:
    """Return an image file as uint8 [H, W, 3], its short side at most `pack_size` pixels.

    Raises:
        DataError: it is damaged, empty, too large, or of a kind without a defined range; names the file.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise DataError(f"{path}: {width} x {height} pixels; an image of a dataset has {MOST_PIXELS} at most")
            return np.asarray(shrunk(to_rgb(image, path), pack_size))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist") from None
    except Exception as error:  # PIL's decoders raise nearly anything on damaged bytes
        reason = "it is empty" if path.is_file() and path.stat().st_size == 0 else f"{type(error).__name__}: {error}"
        raise DataError(f"{path} can't be decoded as an image ({reason}); repair or remove it") from error


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """Return an image of any kind as 8-bit RGB."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        raise DataError(f"{path}: 32-bit pixels (PIL's mode {image.mode}) have no defined range; save it with 8 or 16")
    if image.mode in {"P", "PA"}:
        return image.convert("RGBA").convert("RGB")  # PIL warns where a transparent palette goes straight to RGB
    return image.convert("RGB")


def shrunk(image: Image.Image, pack_size: int) -> Image.Image:
    """Return an image with its short side brought down to `pack_size`, where it is longer."""
    width, height = image.size
    short = min(width, height)
    if short <= pack_size:
        return image
    size = (round(width * pack_size / short), round(height * pack_size / short))
    return image.resize(size, Image.Resampling.BICUBIC)
