"""Where a step's stored vectors are read from: memory of the device, or the disk. Both give the same bits."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from clipkd.core.device import sent
from clipkd.data import residency
from clipkd.embeddings.vectors import Vectors
from clipkd.runs.standardisation import Standardisation

SHARE = 0.25
"""Of what images may take of a GPU's free memory: so much may vectors take, which comes before them."""


class VectorStore(Protocol):
    """Stored vectors [N, V, D] of N images in V views."""

    width: int
    """D."""

    def __call__(self, rows: np.ndarray, views: np.ndarray | int) -> Tensor:
        """Return the vectors of images `rows` [B] in their views [B], or one for all: float32 [B, D], on the device."""


class OnDisk:
    """Memory-mapped, read and decoded by the host."""

    def __init__(self, vectors: Vectors, device: torch.device, standardised: Standardisation | None) -> None:
        self.vectors, self.device, self.standardised = vectors, device, standardised
        self.width = vectors.shape[-1]

    def __call__(self, rows: np.ndarray, views: np.ndarray | int) -> Tensor:
        vectors = self.vectors[rows, views]
        if self.standardised is not None:
            vectors = self.standardised(vectors)
        return sent(torch.from_numpy(vectors), self.device)


class OnDevice:
    """As they are stored in the device's memory, and decoded there, operation by operation as the host does it."""

    def __init__(self, vectors: Vectors, device: torch.device, standardised: Standardisation | None) -> None:
        _, self.views, self.width = vectors.shape
        self.device, self.codes = device, codes_on(vectors, device)
        self.grid = None if vectors.grid is None else torch.from_numpy(np.array(vectors.grid)).to(device)
        steps = (standardised.mean, standardised.scale) if standardised is not None else ()
        self.standardised = [torch.from_numpy(np.array(one)).to(device) for one in steps]

    def __call__(self, rows: np.ndarray, views: np.ndarray | int) -> Tensor:
        index = sent(torch.from_numpy(rows * self.views + views), self.device)
        vectors = self.codes.index_select(0, index).float()
        if self.grid is not None:
            vectors = vectors * self.grid[1] + self.grid[0]
        if self.standardised:
            mean, scale = self.standardised
            vectors = ((vectors - mean) * scale).float()
        return vectors


ON_DEVICE: WeakValueDictionary[tuple[str, str, torch.device], Tensor] = WeakValueDictionary()
"""A store's content, an array's name and a device -> what is in its memory now: runs side by side share it."""


def codes_on(vectors: Vectors, device: torch.device) -> Tensor:
    """Return vectors as they are stored, as a tensor [N * V, D] on the device."""
    key = vectors.content, vectors.name, device
    if (codes := ON_DEVICE.get(key)) is None:
        codes = ON_DEVICE[key] = residency.tensor(vectors.stored).to(device).flatten(0, 1)
    return codes


def vector_store(vectors: Vectors, device: torch.device, standardised: Standardisation | None = None) -> VectorStore:
    """Return vectors in a GPU's memory, where they take little of what is free; else on the disk."""
    is_there = (vectors.content, vectors.name, device) in ON_DEVICE
    if device.type == "cpu" or not (is_there or vectors.stored.nbytes <= memory_for_vectors(device)):
        return OnDisk(vectors, device, standardised)
    return OnDevice(vectors, device, standardised)


def memory_for_vectors(device: torch.device) -> float:
    """Return how many bytes of a device a store may take."""
    return SHARE * residency.fraction() * residency.free_memory(device)
