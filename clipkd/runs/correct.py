"""Which test images a student classifies correctly: a small file of each run, for intervals. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from clipkd.core.errors import DataError

CORRECT = "correct.safetensors"
"""In a run's folder: for the epochs `last` and `selected` a bit for each test image, in the dataset's order."""


def packed(correct: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of the file: epoch -> bool [N], eight images a byte."""
    (images,) = {len(one) for one in correct.values()}
    return save({epoch: np.packbits(one) for epoch, one in correct.items()}, {"images": str(images)})


def unpacked(path: Path) -> dict[str, np.ndarray]:
    """Return epoch -> bool [N] of a file.

    Raises:
        DataError: it is damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            images = int(file.metadata()["images"])
            bits = {epoch: np.unpackbits(file.get_tensor(epoch), count=images) for epoch in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); delete {path.parent} to regenerate it") from None
    return {epoch: found.astype(bool) for epoch, found in bits.items()}
