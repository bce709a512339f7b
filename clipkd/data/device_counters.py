"""Random numbers by counter on the device that uses them: what clipkd/data/counters.py is for numpy.

Philox4x32-10 of J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3
(https://doi.org/10.1145/2063384.2063405). Words are held in int64, whose product keeps the 64 bits of two of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF
BITS = 23
"""Of a number: with the half that is added, float32 holds each exactly, and neither 0 nor 1 is drawn."""


def uniforms(key: tuple[int, int], rows: Tensor, count: int) -> Tensor:
    """Return `count` numbers in (0, 1) for each row, float32 [N, count].

    Args:
        key: two whole numbers below 2^32.
        rows: whole numbers below 2^32, int64 [N], on the device. A row's numbers depend on the key and the row alone.
        count: how many; the first ones are the same whatever it is.
    """
    blocks = torch.arange(-(-count // 4), device=rows.device)
    first, second = (words.flatten() for words in torch.meshgrid(rows, blocks, indexing="ij"))
    nothing = torch.zeros_like(first)
    words = philox((second, first, nothing, nothing), key).view(4, len(rows), -1)
    return ((words >> (32 - BITS)).float() + 0.5).mul_(2.0**-BITS).permute(1, 2, 0).reshape(len(rows), -1)[:, :count]


def normals(key: tuple[int, int], rows: Tensor, count: int) -> Tensor:
    """Return `count` numbers of mean 0 and deviation 1 for each row, float32 [N, count]; see `uniforms`."""
    return torch.special.ndtri(uniforms(key, rows, count))


def philox(counters: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """Return four random 32-bit words for each counter, int64 [4, N], of its four words [N]."""
    a, b, c, d = counters
    first, second = key
    for _ in range(ROUNDS):
        one, two = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (two >> 32 & MASK) ^ b ^ first, two & MASK, (one >> 32 & MASK) ^ d ^ second, one & MASK
        first, second = (first + WEYL[0]) & MASK, (second + WEYL[1]) & MASK
    return torch.stack([a, b, c, d])
