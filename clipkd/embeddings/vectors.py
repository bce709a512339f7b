"""Stored vectors: numbers on disk in one of three formats, float32 to whoever reads them. No torch here.

`float32` and `float16` are the numbers themselves. `int16` are codes on a grid of their own for each
dimension: value = offset + step * code. In the same two bytes a code is finer than a float16, whose
11 bits are spent on a range that one dimension does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import Artifact

HIGHEST = 32767
"""Codes lie in -HIGHEST to HIGHEST."""
DTYPES = ("int16", "float16", "float32")


class Vectors:
    """One stored array [..., D], memory-mapped, decoded as it is indexed."""

    def __init__(self, artifact: Artifact, name: str) -> None:
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
    """Return the grid [2, D], float32, whose codes span low to high [D]; a dimension without extent has step 1."""
    extent = high.astype(np.float64) - low
    return np.stack([(low.astype(np.float64) + high) / 2, np.where(extent > 0, extent / (2 * HIGHEST), 1.0)]).astype(
        np.float32
    )


class Writer:
    """Writes an array [..., D] from its first row to its last, in a format.

    By plain writes, not a memory map: where the disk is full, a map kills the process with a bus error.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str, grid: np.ndarray) -> None:
        """Create the file `path`, and beside it the grid where the format has one."""
        self.dtype, self.grid, self.is_finite = dtype, grid, True
        self.stream = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)
        if dtype == "int16":
            np.save(path.with_name(f"{path.stem}-grid.npy"), grid)

    def put(self, values: np.ndarray) -> None:
        """Store the next values [N, ..., D]."""
        with np.errstate(over="ignore"):  # an overflow becomes an infinity, which is noted
            stored = encoded(values, self.grid) if self.dtype == "int16" else values.astype(self.dtype)
        self.is_finite &= bool(np.isfinite(stored).all())
        self.stream.write(np.ascontiguousarray(stored).tobytes())

    def close(self) -> None:
        self.stream.close()


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
