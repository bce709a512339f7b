"""Vectors matched to images, or to classes: by the names of files, or by row; what does not match is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipkd.core.accents import composed
from clipkd.core.errors import DataError
from clipkd.embeddings.vector_files import VectorFile, listed

NONE = -1
KINDS: tuple[tuple[Callable[[str], str], bool], ...] = (
    (lambda target: target, True),
    (lambda target: target.partition("/")[2], False),
    (lambda target: target.rpartition("/")[2], False),
)
"""How a file may name an image `train/cat/1.png`, and whether more may stand before it."""


@dataclass(frozen=True)
class Match:
    """Which row of a file of vectors is of which image."""

    file: VectorFile
    what: str
    """What the vectors should be of, in words."""
    rows: np.ndarray
    """For each image (or class) the row of its vector, int64 [N]; NONE where there is none."""
    targets: Sequence[str] | None
    """What each image is called; None: by its number."""
    unknown: tuple[str, ...] = ()
    """Names and rows of the file that no image has."""
    repeated: int = 0
    """Rows that repeat an earlier one, number for number."""

    @property
    def missing(self) -> np.ndarray:
        """Images without a vector, int64."""
        return np.flatnonzero(self.rows == NONE)

    def report(self) -> str:
        """Return what was matched, and what was not, in words."""
        by = "file name" if self.file.names is not None else "row"
        said = [f"{len(self.rows) - len(self.missing):,} of {len(self.rows):,} {self.what} have a vector (by {by})"]
        if len(self.missing):
            said.append(f"{len(self.missing):,} have none: {listed(map(self.called, self.missing))}")
        if self.unknown:
            said.append(f"vectors of none of them: {listed(self.unknown)}")
        if self.repeated:
            said.append(f"rows that repeat an earlier one: {self.repeated:,}")
        return f"{self.file.path}: {'; '.join(said)}"

    def called(self, number: int) -> str:
        return self.targets[number] if self.targets else f"row {number}"

    def complete(self) -> Match:
        """Return the match; raise DataError where an image has no vector."""
        if len(self.missing):
            raise DataError(f"{self.report()}; every one of the {self.what} needs a vector here")
        return self


def by_row(file: VectorFile, count: int, what: str) -> Match:
    """Return the match of vectors whose place, or column `row`, says what they are of.

    Raises:
        DataError: without such a column, there are more or fewer vectors than images; two differ that are of one.
    """
    if file.rows is not None:
        return joined(file, [int(row) if 0 <= row < count else NONE for row in file.rows], count, what, None)
    if len(file) != count:
        raise DataError(
            f"{file.path} has {len(file):,} vectors, there are {count:,} {what}: without names, row N of the file is "
            "number N of them, counted from 0"
        )
    return Match(file, what, np.arange(count), None)


def by_name(file: VectorFile, targets: Sequence[str], what: str, others: Sequence[str] = ()) -> Match:
    """Return the match of vectors that have names with images, or classes, that have names.

    An image `train/cat/1.png` is meant by a path that ends so, from the dataset's folder or from `/`; where no name of
    the file is such a path, by `cat/1.png`, or else by `1.png`. All names of a file are of one kind.

    Args:
        file: the vectors.
        targets: what the images are called.
        what: what they are, in words.
        others: what images of another split are called, of which the file may have vectors too.

    Raises:
        DataError: no name matches, or one could mean two images; two vectors differ that are of one image.
    """
    assert file.names is not None
    names, targets, others = ([spelled(name) for name in some] for some in (file.names, targets, others))
    for shorten, may_lead in KINDS:
        keys = [shorten(target) for target in targets]
        places = {key: number for number, key in enumerate(keys) if key}
        found = [place_of(name, places, may_lead) for name in names]
        if not any(place != NONE for place in found):
            continue
        refuse_ambiguous(file, names, found, keys)
        elsewhere = {shorten(target): 0 for target in others}
        is_elsewhere = [place_of(name, elsewhere, may_lead) != NONE for name in names]
        return joined(file, found, len(targets), what, targets, is_elsewhere)
    raise DataError(
        f"{file.path}: no name is one of the {what}: the file has {listed(file.names[:3])}, expected are names like "
        f"{listed(targets[:3])}"
    )


def is_of_both(file: VectorFile, train: Sequence[str], test: Sequence[str]) -> bool:
    """Return whether a file names images of both splits, in the way of `by_name`.

    Raises:
        DataError: it names test images, and some of its names are those of a training image and of a test image.
    """
    names = [spelled(name) for name in file.names or ()]
    for shorten, may_lead in KINDS:
        ours, others = ({shorten(spelled(target)): 0 for target in targets} for targets in (train, test))
        of_train, of_test = ([place_of(name, places, may_lead) != NONE for name in names] for places in (ours, others))
        if not any(of_train + of_test):
            continue
        found = list(zip(names, of_train, of_test, strict=True))
        if not any(is_test and not is_train for _, is_train, is_test in found):
            return False
        if unclear := [name for name, is_train, is_test in found if is_train and is_test]:
            raise DataError(
                f"{file.path}: names that could mean a training or a test image: {listed(unclear)}; write the path "
                "from the dataset's folder on, for example train/<class>/<file>"
            )
        return any(of_train)
    return False


def spelled(name: str) -> str:
    """Return a name in one spelling: `/` between folders, accents composed (macOS decomposes those of files)."""
    return composed(name.replace("\\", "/").removeprefix("./"))


def place_of(name: str, places: dict[str, int], may_lead: bool) -> int:
    """Return the place of a name; `may_lead`: of the longest of its ends that has one. NONE where there is none."""
    while name not in places:
        if not may_lead or "/" not in name:
            return NONE
        name = name.partition("/")[2]
    return places[name]


def refuse_ambiguous(file: VectorFile, names: Sequence[str], found: Sequence[int], keys: Sequence[str]) -> None:
    """Raise DataError where a name of the file is that of two images."""
    shared = {key for key, count in Counter(keys).items() if count > 1}
    unclear = [name for name, place in zip(names, found, strict=True) if place != NONE and keys[place] in shared]
    if unclear:
        raise DataError(
            f"{file.path}: {len(unclear):,} names could mean two images: {listed(unclear)}; write the path from the "
            "dataset's folder on, for example train/<class>/<file>"
        )


def joined(
    file: VectorFile,
    found: Sequence[int],
    count: int,
    what: str,
    targets: Sequence[str] | None,
    is_elsewhere: Sequence[bool] | None = None,
) -> Match:
    """Return the match where each row of the file has its place among `count` images, NONE for no image."""
    places = np.array(found, dtype=np.int64)
    known = np.flatnonzero(places != NONE)
    rows = np.full(count, NONE, dtype=np.int64)
    rows[places[known][::-1]] = known[::-1]  # of several rows of one image the first
    again = known[rows[places[known]] != known]
    first = rows[places[again]]
    differ = [row for row, one in zip(again, first, strict=True) if not np.array_equal(file.at(row), file.at(one))]
    if differ:
        named = listed(file.called(row) for row in differ)
        raise DataError(f"{file.path}: vectors of an image that has another one already: {named}")
    strangers = np.flatnonzero((places == NONE) & ~np.array(is_elsewhere or [False] * len(places), dtype=bool))
    unknown = tuple(file.names[row] if file.names else f"row {file.rows[row]}" for row in strangers)  # type: ignore[index]
    return Match(file, what, rows, targets, unknown, len(again))
