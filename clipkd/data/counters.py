"""Random numbers by counter: a number is a function of a key and of its place, whatever was drawn before it.

Philox4x64-10 of J. Salmon et al., Parallel random numbers: as easy as 1, 2, 3
(https://doi.org/10.1145/2063384.2063405), for many counters at once; numpy's own `Philox` draws one sequence. No torch.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
MASK = (1 << 64) - 1
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def uniforms(key: tuple[int, int], rows: np.ndarray, count: int, views: np.ndarray | int = 0) -> np.ndarray:
    """Return `count` numbers in [0, 1) for each row, float64 [count, N].

    Args:
        key: two whole numbers below 2^64, for example a seed and what is drawn.
        rows: whole numbers [N]. A row's numbers depend on the key, the row and its view alone.
        count: how many; the first ones are the same whatever it is.
        views: whole numbers [N], or one for all rows: each view of a row has numbers of its own.
    """
    blocks = -(-count // 4)
    block = np.repeat(np.arange(blocks, dtype=np.uint64), len(rows))
    row = np.tile(rows.astype(np.uint64), blocks)
    view = np.tile(np.broadcast_to(views, len(rows)).astype(np.uint64), blocks)
    drawn = philox(np.stack([block, row, view, np.zeros_like(row)]), key)
    ordered = drawn.reshape(4, blocks, len(rows)).transpose(1, 0, 2).reshape(4 * blocks, len(rows))
    return (ordered[:count] >> np.uint64(11)) * 2.0**-53


def philox(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Return four random words for each counter, uint64 [4, N], of counters [4, N]."""
    a, b, c, d = counters
    first, second = key
    for _ in range(ROUNDS):
        (high, low), (high2, low2) = product(MULTIPLIERS[0], a), product(MULTIPLIERS[1], c)
        a, b, c, d = high2 ^ b ^ np.uint64(first), low2, high ^ d ^ np.uint64(second), low
        first, second = (first + WEYL[0]) & MASK, (second + WEYL[1]) & MASK
    return np.stack([a, b, c, d])


def product(multiplier: int, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the high and the low 64 bits of a number times words, uint64 [N] each."""
    m_high, m_low = np.uint64(multiplier >> 32), np.uint64(multiplier & 0xFFFFFFFF)
    high, low = words >> HALF, words & LOW
    middle = m_high * low + (m_low * low >> HALF)
    other = m_low * high + (middle & LOW)
    return m_high * high + (middle >> HALF) + (other >> HALF), np.uint64(multiplier) * words
