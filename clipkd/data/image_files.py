"""Image files that the user names: files, folders, or a list; read by a few threads, the bad ones reported."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from clipkd.core.accents import written_otherwise
from clipkd.core.errors import DataError, InputError
from clipkd.core.prefetch import by_cores
from clipkd.core.progress import say
from clipkd.data.preprocessing import Preprocessing
from clipkd.plugins.datasets._listing import Walk

LIST = "-"


def listed(names: Sequence[str], lines: TextIO) -> list[Path]:
    """Return the image files that `names` stand for, in their order.

    Args:
        names: files; folders, for all images in and below them by name; "-", for paths read from `lines`.
        lines: one path a line, or separated by null characters, as `find -print0` writes them.

    Raises:
        InputError: a file or folder that is named does not exist, a folder holds no image, or the list is empty. (What
            is missing from a list of many is left out when it is read.)
    """
    found: list[Path] = []
    for name in names:
        if name == LIST:
            if isinstance(lines, io.TextIOWrapper):
                lines.reconfigure(errors="surrogateescape")  # a file name need not be UTF-8
            text = lines.read().removeprefix("\ufeff")
            # A name may hold every other character that str.splitlines() splits at.
            lines_here = text.split("\0") if "\0" in text else [line.removesuffix("\r") for line in text.split("\n")]
            listed_here = [Path(line) for line in lines_here if line.strip()]
            if not listed_here:
                raise InputError("standard input lists no image: give one path a line")
            found += listed_here
        elif os.path.isdir(name):
            found += images_below(Path(name))
        elif os.path.isfile(name):
            found.append(Path(name))
        elif os.path.exists(name):
            raise InputError(f"image {name} is a device or a pipe: name a file, or - for a list on standard input")
        else:
            raise InputError(f"image {name} does not exist{written_otherwise(name)}")
    return found


def images_below(folder: Path) -> list[Path]:
    """Return the images in and below a folder, by name, behind links too, as packing does; says what it leaves out.

    Raises:
        InputError: there is no image.
    """
    walk = Walk(folder.resolve().parent)
    below = sorted(walk.below(folder, str(folder)))
    for problem in walk.problems:
        say(f"skipped: {problem}")
    left_out = ", ".join(f"{count:,} ({why})" for why, count in sorted(walk.skipped.items()))
    if not below:
        raise InputError(f"folder {folder} holds no image that PIL reads{left_out and f'; left out: {left_out}'}")
    if left_out:
        say(f"{folder}: left out: {left_out}")
    return below


def read_images(paths: Iterable[Path], steps: Preprocessing) -> Iterator[tuple[Path, np.ndarray | DataError]]:
    """Yield each path with its image, uint8 [S, S, 3], or with what is wrong with it; in order."""

    def read(path: Path) -> np.ndarray | DataError:
        try:
            return steps.read(path)
        except DataError as error:
            return error

    return by_cores(read, paths)
