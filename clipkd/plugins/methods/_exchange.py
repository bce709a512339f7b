"""What controls exchange: the rows of images, the order of classes, the axes of the teacher's space."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def exchanged_rows(rows: np.ndarray, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """Return row -> another row: one random cycle over the rows, or with labels [N] over each class's rows.

    A class's only row keeps itself. So does every number up to the last row that is not among the rows.
    """
    shuffled = np.random.default_rng(seed).permutation(rows)
    groups = np.zeros(len(rows), dtype=np.int64) if labels is None else labels[shuffled]
    order = groups.argsort(kind="stable")
    shuffled, groups = shuffled[order], groups[order]
    is_first = np.diff(groups, prepend=groups[0] - 1) != 0
    starts = np.flatnonzero(is_first)
    # The next row of the same class; after a class's last one, its first.
    following = np.arange(1, len(rows) + 1)
    following[np.append(starts[1:], len(rows)) - 1] = starts
    found = np.arange(rows.max() + 1)
    found[shuffled] = shuffled[following]
    return found


def class_cycle(classes: int, generator: torch.Generator) -> Tensor:
    """Return class -> another class [C]: one random cycle over all classes."""
    order = torch.randperm(classes, generator=generator)
    found = torch.empty_like(order)
    found[order] = order.roll(1)
    return found


@lru_cache(maxsize=16)  # a stack's seeds, each of which asks in every step
def class_cycle_and_rotation(classes: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a class cycle [C] and an orthogonal matrix [D, D], float64, of even distribution.

    The matrix: Q of a QR decomposition of normal numbers, with the signs that make R's diagonal positive
    (F. Mezzadri, How to generate random matrices from the classical compact groups, arXiv math-ph/0609050).
    """
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return class_cycle(classes, generator), q * r.diagonal().sign()
