"""Files of vectors that somebody else computed: .npy, .safetensors, .parquet. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core import lfs
from clipkd.core.errors import MOST_NAMED, DataError, InputError, MachineError
from clipkd.plugins.teachers._imported import NAMES_SUFFIX

NAME_COLUMNS = ("file_name", "file", "filename", "path", "image", "name", "class")
ROW_COLUMNS = ("row", "index")
VECTOR_COLUMNS = ("vector", "embedding", "embeddings")
"""Columns of a parquet file, by the names that they may have; the first that is there is taken."""
ROWS = 8192
"""Vectors that are looked at together."""


@dataclass(frozen=True)
class VectorFile:
    """The vectors of one file, and what each one is of."""

    path: Path
    vectors: np.ndarray
    """Numbers [N, D], of any type; of .npy memory-mapped."""
    names: list[str] | None = None
    """What each row is of: an image's file, or a class; None: see `rows`."""
    rows: np.ndarray | None = None
    """The number of the image (or class) that each row is of, int64 [N]; None, without names too: its own place."""

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return int(self.vectors.shape[1])

    def called(self, row: int) -> str:
        """Return how a message names a row."""
        return f"row {row}" + (f" ('{self.names[row]}')" if self.names else "")

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of rows [n], float32 [n, D]."""
        with np.errstate(over="ignore"):  # beyond float32 is an infinity, which `check` refuses
            return self.vectors[rows].astype(np.float32)

    def pieces(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the vectors of rows, some at a time, float32 [n, D]."""
        for start in range(0, len(rows), ROWS):
            yield self.at(rows[start : start + ROWS])

    def check(self) -> None:
        """Raise DataError where a vector is not finite in float32, or zero; names the first rows."""
        wrong: dict[str, list[int]] = {"not finite": [], "too large for float32": [], "zero in every dimension": []}
        start = 0
        for piece in self.pieces(np.arange(len(self))):
            is_finite = np.isfinite(piece).all(axis=1)
            infinite = start + np.flatnonzero(~is_finite)
            was_finite = np.isfinite(self.vectors[infinite]).all(axis=1)
            wrong["not finite"] += infinite[~was_finite].tolist()
            wrong["too large for float32"] += infinite[was_finite].tolist()
            wrong["zero in every dimension"] += (start + np.flatnonzero(is_finite & ~piece.any(axis=1))).tolist()
            start += len(piece)
        said = [f"vectors that are {what}: {listed(map(self.called, rows))}" for what, rows in wrong.items() if rows]
        if said:
            raise DataError(f"{self.path}: {'; '.join(said)}")


def listed(names: Any) -> str:
    """Return the first of some names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - MOST_NAMED:,} more" if len(every) > MOST_NAMED else ""
    return ", ".join(every[:MOST_NAMED]) + more


def read(path: Path, is_of_classes: bool = False) -> VectorFile:
    """Open a file of vectors, its form checked; `VectorFile.check` looks at the numbers.

    Args:
        path: the file.
        is_of_classes: its vectors are of classes, not of images.

    Raises:
        DataError: it is damaged, or holds something else than vectors of one length; says what.
        InputError: a parquet file has no column of vectors.
        MachineError: pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        found = from_parquet(path, is_of_classes)
    else:
        found = {".npy": from_npy, ".safetensors": from_safetensors}[path.suffix](path)
    vectors = found.vectors
    if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {vectors.dtype} {list(vectors.shape)}; expected are vectors, numbers [N, D]")
    if found.names is not None and len(found.names) != len(vectors):
        raise DataError(f"{path} has {len(vectors):,} vectors, but there are {len(found.names):,} names of them")
    return found


def from_npy(path: Path) -> VectorFile:
    """Open an array [N, D]; what its rows are of may be said in a text file beside it."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} is damaged, or no array of numbers ({error}){lfs.instead(path)}") from None
    if not isinstance(vectors, np.ndarray):
        raise DataError(f"{path} is an archive of arrays (.npz), not one array: write it with numpy.save")
    return VectorFile(path, vectors, names_beside(path))


def names_beside(path: Path) -> list[str] | None:
    """Return the lines of the text file beside a file of vectors; None where there is none."""
    beside = path.with_suffix(NAMES_SUFFIX)
    if not beside.is_file():
        return None
    try:
        return beside.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{beside} is no text in UTF-8 ({error})") from None


def from_safetensors(path: Path) -> VectorFile:
    """Open one tensor [N, D], or a tensor [D] for each image (or class), under its name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, TypeError) as error:  # TypeError: numpy has no bfloat16
        raise DataError(
            f"{path} is damaged, or in a format that numpy does not have, as bfloat16: {error}{lfs.instead(path)}"
        ) from None
    if len(tensors) == 1 and (one := next(iter(tensors.values()))).ndim == 2:
        return VectorFile(path, one, names_beside(path))
    shapes = sorted({tensor.shape for tensor in tensors.values()})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise DataError(
            f"{path} holds tensors of the shapes {listed(map(str, map(list, shapes)))}; expected is one [N, D], or one "
            "[D] for each image under the name of its file"
        )
    return VectorFile(path, np.stack(list(tensors.values())), list(tensors))


def from_parquet(path: Path, is_of_classes: bool = False) -> VectorFile:
    """Open a table with a column of vectors and one of file names or rows.

    Of images, a column `class` beside a column of rows says what each shows, and not what the vector is of.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MachineError(f"{path}: parquet files need pyarrow: pip install 'clipkd[hub-datasets]'") from None
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged, or no parquet file ({error}){lfs.instead(path)}") from None

    def column(names: tuple[str, ...], wanted: Callable[[Any], Any] = lambda found: found) -> Any:
        there = {name: table[name].combine_chunks() for name in names if name in table.column_names}
        usable = ((name, wanted(found)) for name, found in there.items())
        name, found = next(((name, found) for name, found in usable if found is not None), ("", None))
        if found is not None and found.null_count:
            row = found.is_null().to_pylist().index(True)
            raise DataError(f"{path}: column '{name}' has {found.null_count:,} empty cells, the first in row {row}")
        return found

    vectors = column(VECTOR_COLUMNS)
    if vectors is None:
        has = ", ".join(map(repr, table.column_names))
        raise InputError(f"{path} has no column {' or '.join(map(repr, VECTOR_COLUMNS))}; it has {has}")
    rows = column(ROW_COLUMNS)
    names = column(NAME_COLUMNS if is_of_classes or rows is None else NAME_COLUMNS[:-1], named_by)
    if names is not None:
        return VectorFile(path, as_array(path, vectors), [str(name) for name in names.to_pylist()])
    if rows is not None and not pyarrow.types.is_integer(rows.type):
        raise DataError(f"{path}: the column of rows holds {rows.type}, not whole numbers")
    return VectorFile(path, as_array(path, vectors), None, None if rows is None else rows.to_numpy().astype(np.int64))


def named_by(cells: Any) -> Any:
    """Return what a parquet column says of names: words or numbers, or the `path` of an image that is stored itself.

    None where it holds something else, as the bytes of images.
    """
    import pyarrow.types as kinds

    if kinds.is_struct(cells.type):
        if cells.type.get_field_index("path") < 0:
            return None
        cells = cells.field("path")
        return None if cells.null_count == len(cells) else named_by(cells)
    kind = cells.type.value_type if kinds.is_dictionary(cells.type) else cells.type
    is_word = any(is_kind(kind) for is_kind in (kinds.is_string, kinds.is_large_string, kinds.is_string_view))
    return cells if is_word or kinds.is_integer(kind) else None


def as_array(path: Path, lists: Any) -> np.ndarray:
    """Return a parquet column of lists of equal length as an array [N, D]."""
    import pyarrow.types as kinds

    is_list = any(is_kind(lists.type) for is_kind in (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list))
    if not is_list or not (kinds.is_floating(lists.type.value_type) or kinds.is_integer(lists.type.value_type)):
        raise DataError(f"{path}: the column of vectors holds {lists.type}, not lists of numbers")
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if len(set(lengths.tolist())) > 1:
        row = int(np.flatnonzero(lengths != lengths[0])[0])
        raise DataError(f"{path}: row {row} has {lengths[row]} dimensions, row 0 has {lengths[0]}")
    flat = lists.flatten()
    if flat.null_count:
        raise DataError(f"{path}: {flat.null_count:,} numbers in the column of vectors are empty")
    return flat.to_numpy(zero_copy_only=False).reshape(len(lists), lengths[0] if len(lists) else 0)
