"""Images that come as bytes or as PIL's, made 8-bit RGB as those of a folder are."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipkd.core.errors import DataError
from clipkd.core.prefetch import prefetch

MOST_PIXELS = 80_000_000
"""An image with more pixels is taken for a decompression bomb (PIL itself warns a little above)."""
MOST_THREADS = 16


def rgb(image: Image.Image, where: str, pack_size: int) -> np.ndarray:
    """Return an opened image as uint8 [H, W, 3], its short side at most `pack_size` pixels.

    Raises:
        DataError: it is damaged or too large; `where` says which one.
    """
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise DataError(f"{where}: {width} x {height} pixels; an image of a dataset has {MOST_PIXELS} at most")
    try:
        return np.asarray(shrunk(to_rgb(image, Path(where)), pack_size))
    except DataError:
        raise
    except Exception as error:  # PIL's decoders raise nearly anything on damaged bytes
        raise DataError(f"{where} can't be decoded as an image ({type(error).__name__}: {error})") from error


def decoded(content: Any, where: str, pack_size: int) -> np.ndarray:
    """Return an image file's bytes as uint8 [H, W, 3] (see `rgb`)."""
    if not isinstance(content, bytes) or not content:
        raise DataError(f"{where}: no image is stored there")
    try:
        image = Image.open(io.BytesIO(content))
    except Exception as error:
        raise DataError(f"{where} can't be decoded as an image ({type(error).__name__}: {error})") from error
    with image:
        return rgb(image, where, pack_size)


def decoded_files(paths: Iterable[Path], pack_size: int) -> Iterator[np.ndarray]:
    """Yield the images of `paths` in order, decoded by a few threads a little ahead of their use."""
    threads = min(cores(), MOST_THREADS)
    for _, image in prefetch(lambda path: decode(path, pack_size), paths, threads, 4 * threads):
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
