"""The options of a source, `place?option=value&option=value`, that several kinds of datasets take."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from clipkd.core.errors import InputError, nearest
from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import DECODING, Augmentation, DatasetSpec, usual_augmentation

if TYPE_CHECKING:
    from clipkd.core.image_reader import ImageReader

DECODING_OPTIONS = {"exif": "follow", "alpha": "white", "levels": "auto"}
"""The options of a source about images that are more than 8-bit pixels, with their defaults (docs/own.md)."""
CHOICES = {"exif": ("follow", "ignore"), "alpha": ("white", "black", "drop")}
PACK_SIZE = 256
"""Images whose short side is longer are packed with this short side, in pixels, where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class DecodedDataset(DatasetSpec):
    """A dataset of image files; its source says how they are decoded (docs/own.md)."""

    needs_source: bool = True
    pack_size: int = PACK_SIZE
    """Images whose short side is longer are packed with this short side, in pixels."""
    exif: str = "follow"
    alpha: str = "white"
    levels: str = "auto"

    def decoding_identity(self) -> Identity:
        """Return what makes pixels of the image files."""
        switches = {name: getattr(self, name) for name in DECODING_OPTIONS}
        return {"pack_size": self.pack_size, "decoding": DECODING} | switches

    def reader(self, everything: Callable[[], Iterable[Path | bytes]] = tuple) -> ImageReader:
        """Return what decodes the images; `everything`: see `ImageReader`."""
        from clipkd.core.image_reader import ImageReader
        from clipkd.core.images import Decoding

        return ImageReader(Decoding.of(self.exif, self.alpha, self.levels), self.pack_size, self.image_size, everything)


def options_of(name: str, where: str, known: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the place and the options of `place?option=value&option=value`; those that are not given as in `known`.

    Raises:
        InputError: an option is unknown, stands twice, or has no value.
    """
    place, _, rest = where.partition("?")
    options = dict(known)
    given = [pair.partition("=") for pair in rest.split("&")] if rest else []
    for option, _, value in given:
        if option not in known:
            raise InputError(
                f"dataset '{name}': unknown option '{option}'{nearest(option, known)} (known: {', '.join(known)})"
            )
        if not value or [one for one, _, _ in given].count(option) > 1:
            raise InputError(f"dataset '{name}': option '{option}' needs one value, as in ?{option}=...")
        options[option] = value
    return place, options


def decoding_options(name: str, options: dict[str, str]) -> dict[str, Any]:
    """Return the options of a source that say how its images are decoded, checked.

    Raises:
        InputError: a value is not one of those that the option takes.
    """
    for option, known in CHOICES.items():
        if options[option] not in known:
            raise InputError(f"dataset '{name}': {option} '{options[option]}' is not one of {', '.join(known)}")
    levels = options["levels"]
    if levels not in {"auto", "full"} and not (levels.isdecimal() and 0 < int(levels) < 1 << 16):
        raise InputError(
            f"dataset '{name}': levels '{levels}' is not one of auto, full, or the level of white, 1 to 65535"
        )
    return {option: options[option] for option in DECODING_OPTIONS}


def size_options(name: str, size: str, augment: str = "", pack: str = "") -> dict[str, Any]:
    """Return what follows from the options `size`, `augment` and `pack` of a source, checked.

    Args:
        name: the dataset's.
        size: the side that every image has, in pixels; "": their sizes differ.
        augment: what is done to training images; "": the usual.
        pack: the longest short side that is packed, in pixels; "": the usual, or `size`.

    Raises:
        InputError: one of them has no such value.
    """
    for option, value in (("size", size), ("pack", pack)):
        if value and not re.fullmatch("[1-9][0-9]{0,3}", value):
            raise InputError(f"dataset '{name}': {option} '{value}' is not a number of pixels, 1 to 9999")
    if augment and augment not in get_args(Augmentation):
        raise InputError(f"dataset '{name}': augment '{augment}' is not one of {', '.join(get_args(Augmentation))}")
    image_size = int(size) if size else None
    pack_size = max(int(pack or PACK_SIZE), image_size or 0)  # what has one size is packed as it is
    usual = usual_augmentation(image_size)
    return {"image_size": image_size, "augmentation": augment or usual, "pack_size": pack_size}
