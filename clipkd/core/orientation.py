"""The orientation that an image file declares, by EXIF or as a TIFF, and its pixels loaded and turned."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag; also TIFF's own."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright (Exif 3.0, 4.6.5.1.6, tag Orientation)."""
BACK = {6: 8, 8: 6}
"""Orientation -> the one that turns upright pixels back; the others are their own."""


def tiff_orientation(image: Image.Image) -> int:
    """Return the orientation of a TIFF, which PIL itself follows when it loads the pixels; 1 for any other file."""
    return int(getattr(image, "tag_v2", {}).get(ORIENTATION, 1)) if image.format == "TIFF" else 1


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of loaded pixels, 1 to 8; 1 where there is none or it can't be read."""
    with suppress(Exception):  # damaged EXIF raises nearly anything, and the pixels may be sound
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def load(image: Image.Image) -> None:
    """Load an opened image's pixels, a turned TIFF without the memory map, whose sides PIL swaps."""
    name = getattr(image, "filename", "")
    if name and tiff_orientation(image) in UPRIGHT:
        image.filename = ""  # type: ignore[attr-defined]  # PIL maps files that have a name
        try:
            image.load()
        finally:
            image.filename = name  # type: ignore[attr-defined]
    else:
        image.load()


def turned(pixels: Image.Image, tiff: int, left: int, exif: Literal["follow", "ignore"]) -> Image.Image:
    """Return loaded pixels upright, or as they are stored where orientation is ignored.

    Args:
        pixels: those of the image.
        tiff: the orientation of a TIFF, which is followed already.
        left: the EXIF orientation that is not.
        exif: what to do with both.
    """
    if exif == "follow":
        return pixels.transpose(UPRIGHT[left]) if left in UPRIGHT else pixels
    return pixels.transpose(UPRIGHT[BACK.get(tiff, tiff)]) if tiff in UPRIGHT else pixels
