"""Digests of images: they tell which images of a dataset that is packed again are as they were. No torch here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

BYTES = 16
"""Of a digest: among a billion images, the odds of two with one digest are below 1 in 10^20."""


def digest_of(image: np.ndarray) -> bytes:
    """Return the digest of an 8-bit image [H, W, 3]: of its size and its pixels."""
    found = hashlib.blake2b(np.array(image.shape, dtype="<i8").tobytes(), digest_size=BYTES)
    found.update(np.ascontiguousarray(image).data)
    return found.digest()


def as_array(digests: Iterable[bytes]) -> np.ndarray:
    """Return digests as an array, uint8 [N, BYTES]."""
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, BYTES)


def counters(digests: np.ndarray) -> np.ndarray:
    """Return a number of each image, uint64 [N], to draw by (clipkd/data/counters.py), of its digest [N, BYTES].

    What is drawn of an image is then the same whatever others there are, and whatever its row is.
    """
    return np.ascontiguousarray(digests).view("<u8")[:, 0].astype(np.uint64)


def places(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return for each wanted row [N, B], uint8, the first equal row of `among` [M, B]; -1 where there is none."""
    rows = {row.tobytes(): place for place, row in reversed(list(enumerate(among)))}
    return np.array([rows.get(row.tobytes(), -1) for row in wanted], dtype=np.int64)
