"""Image files, bytes and PIL images made 8-bit RGB: upright, on white, levels of 16 bits scaled."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from clipkd.core import lfs, orientation
from clipkd.core.errors import DataError, InputError

FORMATS = (
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO", "IM", "IMT",
    "JPEG", "JPEG2000", "MCIDAS", "MPO", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER",
    "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
)  # fmt: skip
"""The formats of pixels that PIL reads by itself: EPS and WMF run another program, and the rest only have a name."""
FIRM = ("AVIF", "BMP", "DDS", "GIF", "ICNS", "JPEG", "JPEG2000", "PNG", "PPM", "PSD", "QOI", "TIFF", "WEBP")
"""Those whose first bytes are a signature, so that a file without a known extension can be told by its header."""
MOST_PIXELS = 80_000_000
"""An image with more pixels is taken for a decompression bomb (PIL itself warns a little above)."""
LIMIT = "CLIPKD_MOST_PIXELS"
"""Environment variable: another limit, for larger photographs that can be trusted."""
WIDEST = 65_535
"""The highest level of 16 bits."""
SMALL_GREY = {"L;2": 85, "L;4": 17}
"""How PIL calls grey pixels of fewer than 8 bits -> by what it multiplies them."""
BACKGROUNDS = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}

CUT_OFF = ("truncated", "unexpected end of file")
DAMAGED = (
    "could not create decoder object",
    "broken data stream",
    "unrecognized data stream",
    "failed to read next frame",
)
"""What PIL says of a file that ends too early, and of one whose pixels it can't read."""


class Notes(Protocol):
    """Takes down what was found in an image and is not in its pixels."""

    def __call__(self, what: str, *levels: int) -> None:
        """Note `what`, with the lowest and highest level where it is about an image of 16 bits."""


def no_notes(what: str, *levels: int) -> None:
    """Take nothing down."""


@dataclass(frozen=True)
class Decoding:
    """What is made of an image that is more than 8-bit pixels."""

    exif: Literal["follow", "ignore"] = "follow"
    """Whether an orientation that the file declares turns it, as viewers do."""
    alpha: Literal["white", "black", "drop"] = "white"
    """The colour under transparent pixels; `drop`: the colours that are stored there, which nobody sees."""
    white: Callable[[Image.Image], int] | int | None = None
    """The level of a grey image of 16 bits that becomes 255; None: what the file declares, or its own highest bit."""

    @classmethod
    def of(cls, exif: str, alpha: str, levels: str) -> Decoding:
        """Return what the options of a source say; they are checked already (clipkd.plugins.datasets)."""
        white = {"auto": None, "full": WIDEST}[levels] if levels in {"auto", "full"} else int(levels)
        return cls(exif, alpha, white)  # type: ignore[arg-type]

    def white_of(self, image: Image.Image) -> int:
        """Return the level that becomes 255."""
        if self.white is None:
            return declared_white(image) or white_above(levels_of(image)[1])
        return self.white(image) if callable(self.white) else self.white


def declared_or(level: int) -> Callable[[Image.Image], int]:
    """Return what gives the level of white that an image declares, and `level` for one that declares none."""
    return lambda image: declared_white(image) or level


USUAL = Decoding()


@cache
def here(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Return those formats that this build of PIL opens under their own name (MPO is opened as JPEG)."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


@cache
def extensions() -> frozenset[str]:
    """Return the extensions of the formats that are read, with their dot, in lower case."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def is_image(path: Path) -> bool:
    """Return whether a file is an image by its extension or, where that is none of an image, by its first bytes."""
    if path.suffix.lower() in extensions():
        return True
    try:
        with Image.open(path, formats=here(FIRM)):
            return True
    except Exception:  # PIL's readers raise nearly anything on other files
        return False


def most_pixels() -> int:
    """Return how many pixels an image may have.

    Raises:
        InputError: the environment variable is not a whole number.
    """
    value = os.environ.get(LIMIT, "")
    if not value:
        return MOST_PIXELS
    if not value.isdecimal() or not 0 < int(value) < 1 << 40:
        raise InputError(f"environment variable {LIMIT} is '{value}': give a number of pixels, for example 200000000")
    # The user's own word: PIL has a limit too, above ours.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, int(value))
    return int(value)


def decode(path: Path, pack_size: int, decoding: Decoding = USUAL, notes: Notes = no_notes) -> np.ndarray:
    """Return an image file as uint8 [H, W, 3], its short side at most `pack_size` pixels.

    Raises:
        DataError: it is damaged, empty, too large, or of a kind without a defined range; names the file.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} can't be decoded as an image (it is empty); repair or remove it")
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror})") from None
    return read(path, str(path), pack_size, decoding, notes, "; repair or remove it")


def decoded(
    content: Any, where: str, pack_size: int, decoding: Decoding = USUAL, notes: Notes = no_notes
) -> np.ndarray:
    """Return an image file's bytes as uint8 [H, W, 3] (see `decode`); `where` says in an error which one."""
    if not isinstance(content, bytes) or not content:
        raise DataError(f"{where}: no image is stored there")
    return read(io.BytesIO(content), where, pack_size, decoding, notes)


def read(
    source: Path | io.BytesIO, where: str, pack_size: int, decoding: Decoding, notes: Notes, advice: str = ""
) -> np.ndarray:
    """Open an image and return it as `decode` does."""
    limit = most_pixels()
    try:
        with Image.open(source, formats=here(FORMATS)) as image:
            return rgb(image, where, pack_size, decoding, notes, advice)
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(too_large(where, f"more than {2 * (Image.MAX_IMAGE_PIXELS or limit):,} pixels")) from None
    except Exception as error:  # PIL's decoders raise nearly anything on damaged bytes
        advice = lfs.instead(source) or advice
        raise DataError(f"{where} can't be decoded as an image ({wrong_in(error)}){advice}") from error


def wrong_in(error: Exception) -> str:
    """Return what is wrong with an image, in plain words where PIL's are known."""
    text = str(error).lower()
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or of a format that is not read"
    if any(words in text for words in CUT_OFF):
        return "it is cut off"
    if any(words in text for words in DAMAGED):
        return "it is damaged or cut off"
    return f"{type(error).__name__}: {error}"


def rgb(
    image: Image.Image,
    where: str,
    pack_size: int,
    decoding: Decoding = USUAL,
    notes: Notes = no_notes,
    advice: str = "",
) -> np.ndarray:
    """Return an opened image as uint8 [H, W, 3], its short side at most `pack_size` pixels.

    Raises:
        DataError: it is damaged or too large; `where` says which one.
    """
    width, height = image.size
    if width * height > most_pixels():
        raise DataError(too_large(where, f"{width} x {height} pixels"))
    try:
        return np.asarray(shrunk(to_rgb(image, where, decoding, notes), pack_size))
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where} can't be decoded as an image ({wrong_in(error)}){advice}") from error


def too_large(where: str, size: str) -> str:
    """Return the message on an image that may be a decompression bomb."""
    return (
        f"{where}: {size}; an image may have {most_pixels():,}: make it smaller, or set the environment variable "
        f"{LIMIT} to a higher limit where the file can be trusted"
    )


def to_rgb(image: Image.Image, where: str, decoding: Decoding = USUAL, notes: Notes = no_notes) -> Image.Image:
    """Return an image of any kind as 8-bit RGB.

    Raises:
        DataError: pixels of 32 bits, which have no defined range.
    """
    format_name, raw, tiff = image.format, raw_mode(image), orientation.tiff_orientation(image)
    orientation.load(image)  # before EXIF is read: PIL may load for it, and its errors there are not those of pixels
    left = orientation.exif_orientation(image)
    if getattr(image, "is_animated", False) and format_name != "MPO":  # a photograph with previews of itself
        notes("more frames")
    if ";16" in raw and image.mode in {"RGB", "RGBA", "LA"}:
        notes("16-bit colour")
    scale_transparency(image, raw)
    flat = eight_bits(image, format_name, where, decoding, notes)
    if left in orientation.UPRIGHT or tiff in orientation.UPRIGHT:
        notes("turned")
        flat = orientation.turned(flat, tiff, left, decoding.exif)
    return without_alpha(flat, decoding, notes)


def scale_transparency(image: Image.Image, raw: str) -> None:
    """Bring a PNG's transparent colour to 8 bits, as its pixels are: PIL leaves it as the file writes it."""
    clear = image.info.get("transparency")
    if raw == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(level >> 8 for level in clear)
    elif raw in SMALL_GREY and isinstance(clear, int):
        image.info["transparency"] = clear * SMALL_GREY[raw]


def raw_mode(image: Image.Image) -> str:
    """Return how an opened file stores its pixels, as PIL calls it; "": unknown."""
    tiles = getattr(image, "tile", None)
    found = tiles[0][3] if tiles else ""
    return str(found[0] if isinstance(found, tuple) and found else found)


def is_wide(image: Image.Image, format_name: str | None) -> bool:
    """Return whether an image has grey levels of 16 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and format_name == "PPM")


def eight_bits(
    image: Image.Image, format_name: str | None, where: str, decoding: Decoding, notes: Notes
) -> Image.Image:
    """Return an image with grey levels of 16 bits scaled to 8; any other as it is."""
    if is_wide(image, format_name):
        lowest, highest = levels_of(image)
        white = decoding.white_of(image)
        notes("16-bit grey", lowest, highest)
        levels = np.asarray(image)
        within = np.minimum(levels.astype(np.uint32), white)
        grey = Image.fromarray(((within * 255 + white // 2) // white).astype(np.uint8))
        clear = image.info.get("transparency")
        if not isinstance(clear, int):
            return grey
        return Image.merge("LA", (grey, Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))))
    if image.mode in {"I", "F"}:
        raise DataError(f"{where}: 32-bit pixels (PIL's mode {image.mode}) have no defined range; save it with 8 or 16")
    return image


def levels_of(image: Image.Image) -> tuple[int, int]:
    """Return the lowest and the highest level of a grey image of 16 bits."""
    levels = np.asarray(image)
    return int(levels.min()), int(levels.max())


def declared_white(image: Image.Image) -> int | None:
    """Return the level of white that the format or the file says; None: neither does.

    PIL scales PGM and JPEG 2000 to all 16 bits. TIFF may say how many bits are used, or the highest value (6.0, tags
    BitsPerSample and MaxSampleValue).
    """
    if image.format in {"PPM", "JPEG2000"}:
        return WIDEST
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return None
    with suppress(Exception):
        bits, most = (np.max(tags.get(tag, WIDEST)) for tag in (258, 281))
        if 8 < bits < 16:
            return (1 << int(bits)) - 1
        if 0 < most < WIDEST:
            return int(most)
    return None


def white_above(level: int) -> int:
    """Return the highest level of the bits that `level` needs, 8 at least: 4,095 for 3,000."""
    return (1 << max(8, int(level).bit_length())) - 1


def without_alpha(image: Image.Image, decoding: Decoding, notes: Notes) -> Image.Image:
    """Return an image as RGB, laid on a colour where it is transparent."""
    if not image.has_transparency_data:
        # PIL warns where a palette goes straight to RGB.
        return (image.convert("RGBA") if image.mode in {"P", "PA"} else image).convert("RGB")
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema()[0] == 255:
        return layer.convert("RGB")
    notes("transparent")
    if decoding.alpha == "drop":
        return layer.convert("RGB")
    ground = Image.new("RGBA", layer.size, BACKGROUNDS[decoding.alpha])
    return Image.alpha_composite(ground, layer).convert("RGB")


def shrunk(image: Image.Image, pack_size: int) -> Image.Image:
    """Return an image with its short side brought down to `pack_size`, where it is longer."""
    width, height = image.size
    short = min(width, height)
    if short <= pack_size:
        return image
    size = (round(width * pack_size / short), round(height * pack_size / short))
    return image.resize(size, Image.Resampling.BICUBIC)
