"""Stored vectors: numbers on disk in one of three formats, float32 to whoever reads them. No torch here.

`float32` and `float16` are the numbers themselves. `int16` are codes on a grid of their own for each
dimension: value = offset + step * code. In the same two bytes a code is finer than a float16, whose
11 bits are spent on a range that one dimension does not have. Where a grid is too coarse, `write_vectors` stores
float32 instead: the array itself says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import Artifact
from clipkd.core.errors import DataError

HIGHEST = 32767
"""Codes lie in -HIGHEST to HIGHEST."""
HOLDS = 2**-12
"""The rounding error of a vector, relative to the vector, up to which int16 is taken. Without outliers it is five to
ten times smaller; the error of a gradient is about as large, and the tests allow it 1e-4 (docs/embeddings.md)."""
FAR = 10.0
"""A vector that is so many times farther from the mean than half of all others is named."""
SHOWN = 5


class Vectors:
    """One stored array [..., D], memory-mapped, decoded as it is indexed."""

    def __init__(self, artifact: Artifact, name: str) -> None:
        self.name, self.content = name, artifact.content
        self.stored = artifact.array(name)
        self.grid = artifact.array(f"{name}-grid") if self.stored.dtype == np.int16 else None
        self.shape = self.stored.shape

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return the vectors at `index` (it must leave the last dimension whole), float32 [..., D]."""
        values = self.stored[index].astype(np.float32)
        return values if self.grid is None else decoded(values, self.grid)


def decoded(codes: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the values [..., D], float32, of codes on a grid [2, D] (offset, step)."""
    return codes.astype(np.float32) * grid[1] + grid[0]


def encoded(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the nearest codes of values [..., D] on a grid [2, D], int16."""
    return np.rint((values.astype(np.float64) - grid[0]) / grid[1]).clip(-HIGHEST, HIGHEST).astype(np.int16)


def grid_of(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the grid [2, D], float32, whose codes span low to high [D]; a dimension without extent has step 1.

    So has one whose step float32 does not hold: all its values are its middle.
    """
    middle = (low.astype(np.float64) + high) / 2
    step = ((high.astype(np.float64) - low) / (2 * HIGHEST)).astype(np.float32)
    return np.stack([middle.astype(np.float32), np.where(step > 0, step, np.float32(1))])


class Writer:
    """Writes an array [..., D] from its first row to its last, in a format, and notes what that loses.

    By plain writes, not a memory map: where the disk is full, a map kills the process with a bus error.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str, statistics: Statistics, carried: float) -> None:
        """Create the file `path`, and beside it the grid where the format has one; statistics of what comes."""
        self.dtype, self.is_finite, self.mean, self.carried = dtype, True, statistics.mean, carried
        self.worst, self.coarse = 0.0, 0
        """The largest rounding error of a vector, relative to the vector, and how many are beyond HOLDS."""
        self.distances: list[np.ndarray] = []
        """From the mean, by row; int16 only."""
        self.stream = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)
        self.grid = grid_of(statistics.low, statistics.high)
        if dtype == "int16":
            np.save(grid_file(path), self.grid)

    def put(self, values: np.ndarray) -> None:
        """Store the next values [N, ..., D]."""
        with np.errstate(over="ignore"):  # an overflow becomes an infinity, which is noted
            stored = encoded(values, self.grid) if self.dtype == "int16" else values.astype(self.dtype)
        self.is_finite &= bool(np.isfinite(stored).all())
        self.stream.write(np.ascontiguousarray(stored).tobytes())
        if self.dtype == "int16":
            errors = relative_errors(decoded(stored, self.grid), values, self.mean)
            self.worst = max(self.worst, float(errors.max()))
            self.coarse += int((errors + self.carried > HOLDS).sum())
            distances = np.linalg.norm(values - self.mean, axis=-1)
            self.distances.append(distances.reshape(len(values), -1).max(axis=1))

    def far(self) -> list[int]:
        """Return the rows that are farther from the mean than all others by far: they stretch the grid."""
        distances = np.concatenate(self.distances)
        return [int(row) for row in np.flatnonzero(distances > FAR * np.median(distances))]

    def close(self) -> None:
        self.stream.close()


def grid_file(path: Path) -> Path:
    """Return where the grid of an array's file is."""
    return path.with_name(f"{path.stem}-grid.npy")


def relative_errors(found: np.ndarray, values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the error of each vector [...] found in place of values [..., D], 1 at most.

    Relative to its length, or to its distance from the mean vector [D] where that is shorter: what all have in common
    tells no two images apart.
    """
    exact = values.astype(np.float64)
    errors = np.linalg.norm(found - exact, axis=-1)
    lengths = np.minimum(np.linalg.norm(exact, axis=-1), np.linalg.norm(exact - mean, axis=-1))
    return np.divide(errors, lengths, out=np.where(errors > 0, 1.0, 0.0), where=lengths > errors)


def write_vectors(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    pieces: Callable[[], Iterable[np.ndarray]],
    statistics: Statistics,
    carried: float = 0.0,
) -> dict[str, Any]:
    """Write an array [..., D] in a format; in float32 where int16 is asked for and does not hold.

    A few vectors far from all others stretch the grid, whose step is then coarse for the others.

    Args:
        path: the file; a grid goes beside it.
        shape: of all pieces together.
        dtype: the format that is asked for.
        pieces: gives the vectors, from the first to the last, each time it is called.
        statistics: of these vectors.
        carried: the relative error that some of them have already, from an array that they were rounded in before.

    Returns:
        For the manifest: the `format` that was taken; of int16 the `worst` relative error and, where it did not hold,
        how many vectors it would have rounded too far (`coarse`), how many rows are `far` from all others, and the
        first of these (`far_rows`). And `carried`, where there is such an error.

    Raises:
        DataError: a value is not finite in the format.
    """
    writer = written(path, shape, dtype, pieces, statistics, carried)
    before = {"carried": carried} if carried else {}
    if dtype != "int16":
        return {"format": dtype} | before
    facts = {"format": "int16", "worst": writer.worst} | before
    if not writer.coarse:
        return facts
    written(path, shape, "float32", pieces, statistics, carried)
    grid_file(path).unlink()
    far = writer.far()
    return facts | {"format": "float32", "coarse": writer.coarse, "far": len(far), "far_rows": far[:SHOWN]}


def rounding(facts: dict[str, Any]) -> float:
    """Return the relative error, at most, of a vector in an array of which `write_vectors` returned these facts."""
    return float(facts.get("carried", 0.0) + (facts["worst"] if facts["format"] == "int16" else 0.0))


def written(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    pieces: Callable[[], Iterable[np.ndarray]],
    statistics: Statistics,
    carried: float,
) -> Writer:
    """Write an array in a format, and return its writer."""
    writer = Writer(path, shape, dtype, statistics, carried)
    for values in pieces():
        writer.put(values)
    writer.close()
    if not writer.is_finite:
        raise DataError(f"an embedding is not finite in {dtype}; try embeddings.dtype: int16 or float32")
    return writer


def exceptions(facts: dict[str, Any], what: str, count: int) -> str:
    """Return what to say of an array that int16 does not hold, or ""; `what` it is, of `count` vectors."""
    if "coarse" not in facts:
        return ""
    far, first = facts["far"], facts["far_rows"]
    rows = ", ".join(map(str, first)) + (", ..." if far > len(first) else "")
    cause = f": {far:,} rows ({rows}) are far from all others and stretch the grid" if far else ""
    return (
        f"{what}: int16 would change {facts['coarse']:,} of {count:,} vectors by more than 1/{round(1 / HOLDS)} "
        f"of their length{cause}; it is stored in float32, in twice the space"
    )


class Statistics:
    """Range, mean and deviation of each dimension, gathered piece by piece in float64."""

    def __init__(self, pieces: Iterable[np.ndarray]) -> None:
        """Gather over pieces [..., D]."""
        self.count = 0
        for piece in pieces:
            values = piece.reshape(-1, piece.shape[-1]).astype(np.float64)
            low, high = values.min(axis=0), values.max(axis=0)
            mean, squares = values.mean(axis=0), ((values - values.mean(axis=0)) ** 2).sum(axis=0)
            if self.count == 0:
                self.low, self.high, self.mean, self.squares = low, high, mean, squares
            else:
                # Chan, Golub and LeVeque's update, which loses no digits where the mean is large.
                both, difference = self.count + len(values), mean - self.mean
                self.squares += squares + difference**2 * self.count * len(values) / both
                self.mean += difference * len(values) / both
                self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
            self.count += len(values)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation [D], of the whole, not of a sample."""
        return np.sqrt(self.squares / self.count)
