"""Images that come as bytes or as PIL's, made 8-bit RGB as those of a folder are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipkd.data.image_folder import MOST_PIXELS, shrunk, to_rgb
from clipkd.errors import DataError


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
