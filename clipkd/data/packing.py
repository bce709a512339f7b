"""Writing images end to end, and drawing the rows that are held out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clipkd.core.errors import DataError
from clipkd.core.words import counted

VALIDATION_SEED = 0
MOST_HELD_OUT = 0.1
"""The largest share of the training images that is held out so that a small dataset has some."""


def write_even(path: Path, images: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Write images of one size as an array [N, H, W, 3]."""
    # Plain writes, not a memory map: where the disk is full, a map kills the process with a bus error.
    count = 0
    with path.open("wb") as stream:
        write_header(stream, shape)
        for count, image in enumerate(images, start=1):
            check_image(image, path.name, count - 1)
            if image.shape != shape[1:]:
                raise DataError(f"{path.name}: image {count - 1} is {image.shape}, not {shape[1:]}")
            stream.write(image.tobytes())
    check_count(path, count, shape[0])


def write_ragged(path: Path, images: Iterable[np.ndarray], count: int) -> np.ndarray:
    """Write images end to end as a flat array; return offset, height and width of each, int64 [N, 3]."""
    shapes: list[tuple[int, int, int]] = []
    total = 0
    with path.open("wb") as stream:
        start = write_header(stream, (0,))
        for row, image in enumerate(images):
            check_image(image, path.name, row)
            shapes.append((total, *image.shape[:2]))
            total += stream.write(image.tobytes())
        stream.seek(0)
        # numpy leaves room in a header for the first dimension to grow; the length stays the same.
        assert write_header(stream, (total,)) == start
    check_count(path, len(shapes), count)
    return np.array(shapes, dtype=np.int64).reshape(-1, 3)


def write_header(stream: BinaryIO, shape: tuple[int, ...]) -> int:
    """Write the .npy header of a uint8 array; return its length in bytes."""
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.tell()


def check_image(image: np.ndarray, where: str, row: int) -> None:
    """Raise DataError unless an image is uint8 [H, W, 3] with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(f"{where}: image {row} is {image.dtype} {image.shape}, not uint8 [H, W, 3]")


def check_count(path: Path, found: int, wanted: int) -> None:
    """Raise DataError unless there are as many images as labels."""
    if found != wanted:
        raise DataError(f"{path.name}: {found} images, but {wanted} labels")


def share_held_out(fraction: float, least: int, images: int) -> float:
    """Return the share of each class that is held out: `fraction`, more where that are fewer than `least` images."""
    return max(fraction, min(MOST_HELD_OUT, least / images)) if images else fraction


def validation_rows(labels: np.ndarray, fraction: float, names: Sequence[str]) -> np.ndarray:
    """Return the rows held out for selection, ascending: the same share of each class, at least one image.

    Raises:
        DataError: a class would have no image left to train on.
    """
    generator = np.random.default_rng(VALIDATION_SEED)
    held_out = []
    for number, name in enumerate(names):
        rows = np.flatnonzero(labels == number)
        count = max(1, round(fraction * len(rows)))
        if count >= len(rows):
            raise DataError(
                f"class '{name}' has {counted(len(rows), 'labelled training image')}, and {count} would be held out "
                "for validation: add labelled images of it"
            )
        held_out.append(generator.permutation(rows)[:count])
    return np.sort(np.concatenate(held_out))
