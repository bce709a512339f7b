"""Reading all images of a dataset: what is wrong with any of them is said at the end, for all at once."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipkd.core import images, orientation
from clipkd.core.errors import DataError, all_at_once
from clipkd.core.images import Decoding, declared_white, is_wide, levels_of, white_above
from clipkd.core.prefetch import by_cores


class ImageReader:
    """Makes a dataset's images 8-bit RGB, by several threads; counts what isn't to be seen in the pixels.

    An image that can't be read becomes a placeholder, so that the rest are read too: `complete` then raises.
    """

    def __init__(
        self,
        decoding: Decoding,
        pack_size: int,
        size: int | None = None,
        everything: Callable[[], Iterable[Path | bytes]] = tuple,
    ) -> None:
        """Read nothing yet.

        Args:
            decoding: what becomes of orientation, transparency and 16 bits; its `white` None: see `own_white`.
            pack_size: images whose short side is longer are brought down to it, in pixels.
            size: side that every image must have, in pixels; None: any.
            everything: all images of the dataset, files or their bytes; read once more where grey images of 16 bits
                don't declare their range.
        """
        self.pack_size, self.size, self.everything = pack_size, size, everything
        self.decoding = decoding if decoding.white is not None else replace(decoding, white=self.white_of)
        self.lock, self.scan_lock = threading.Lock(), threading.Lock()
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.levels: list[int] = []
        """The lowest and the highest level of grey images of 16 bits; empty where there are none."""

    def note(self, what: str, *levels: int) -> None:
        """Count what was found in an image (clipkd.core.images.Notes)."""
        with self.lock:
            self.counts[what] += 1
            if levels:
                found = [*self.levels, *levels]
                self.levels = [min(found), max(found)]

    def white_of(self, image: Image.Image) -> int:
        """Return the level of white that an image declares, or that of the whole dataset."""
        declared = declared_white(image)
        if declared is not None:
            self.note("16-bit declared")
            return declared
        with self.scan_lock:
            return self.own_white

    @cached_property
    def own_white(self) -> int:
        """The highest level of the bits that the dataset's grey images of 16 bits use, where they don't declare it."""
        highest = (level for _, level in by_cores(highest_level, self.everything()))
        return white_above(max(highest, default=0))

    def files(self, paths: Iterable[Path]) -> Iterator[np.ndarray]:
        """Return the images of files in order, decoded by a few threads a little ahead of their use."""
        return (image for _, image in by_cores(self.file, paths))

    def file(self, path: Path) -> np.ndarray:
        """Return an image file as uint8 [H, W, 3]."""
        return self.sound(str(path), partial(images.decode, path, self.pack_size, self.decoding, self.note))

    def stored(self, content: Any, where: str) -> np.ndarray:
        """Return an image file's bytes as uint8 [H, W, 3]; `where` says in an error which one."""
        return self.sound(where, partial(images.decoded, content, where, self.pack_size, self.decoding, self.note))

    def opened(self, image: Image.Image, where: str) -> np.ndarray:
        """Return an opened image as uint8 [H, W, 3]; `where` says in an error which one."""
        return self.sound(where, partial(images.rgb, image, where, self.pack_size, self.decoding, self.note))

    def sound(self, where: str, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return a decoded image; a placeholder where it is damaged, which is noted."""
        try:
            image = decode()
            if self.size is None or image.shape[:2] == (self.size, self.size):
                return image
            height, width = image.shape[:2]
            problem = f"{where} has {width} x {height} pixels, not {self.size} x {self.size}, as size={self.size} says"
        except DataError as error:
            problem = str(error)
        with self.lock:
            self.problems.append(problem)
        return np.zeros((self.size or 1, self.size or 1, 3), dtype=np.uint8)

    def complete(self) -> dict[str, Any]:
        """Return what was found, as facts of the dataset; called when all images were read.

        Raises:
            DataError: some images can't be read; they are named.
        """
        if len(self.problems) == 1:
            raise DataError(self.problems[0])
        if self.problems:
            raise DataError(all_at_once("some images can't be used", sorted(self.problems)))
        found: dict[str, Any] = {what.replace(" ", "_").replace("-", "_"): n for what, n in sorted(self.counts.items())}
        if self.levels:
            lowest, highest = self.levels
            white = self.decoding.white if isinstance(self.decoding.white, int) else self.__dict__.get("own_white")
            found["levels"] = {"lowest": lowest, "highest": highest, "white": white}
        if self.counts["transparent"]:
            found["alpha"] = self.decoding.alpha
        if self.counts["turned"]:
            found["exif"] = self.decoding.exif
        return found


def highest_level(source: Path | bytes) -> int:
    """Return the highest level of an image, where it is grey, has 16 bits and doesn't declare its range; else 0."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    # A damaged image is named when it is read.
    with suppress(Exception), Image.open(file, formats=images.here(images.FORMATS)) as image:
        if is_wide(image, image.format) and declared_white(image) is None:
            orientation.load(image)
            return levels_of(image)[1]
    return 0
