"""Numbers over seeds: mean, sample standard deviation, and paired differences with their interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CONFIDENCE = 0.95
EQUAL = 1e-12
"""Differences closer than this are equal: they differ by rounding only."""


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (divisor n - 1; None where n = 1)."""

    mean: float
    deviation: float | None
    n: int


def summarise(values: Iterable[float]) -> Summary | None:
    """Return the summary of numbers, None where there are none; the order of the numbers has no effect."""
    numbers = sorted(values)
    if not numbers:
        return None
    return Summary(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None, len(numbers))


@dataclass(frozen=True)
class Difference:
    """Mean paired difference and its confidence interval, None where none can be estimated."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `no difference shown`, or `no interval`."""
        if self.low is None or self.high is None:
            return "no interval"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return the difference first - second over the seeds that both have, None where they share none.

    The interval is Student's: mean -+ t(0.975, n - 1) * s / sqrt(n), s the sample standard deviation
    of the n differences. One seed gives no interval, nor do equal differences (accuracies are counts
    of images, so that two seeds can differ by exactly as much by chance).
    """
    differences = sorted(first[seed] - second[seed] for seed in first.keys() & second.keys())
    summary = summarise(differences)
    if summary is None:
        return None
    if summary.deviation is None or differences[-1] - differences[0] < EQUAL:
        return Difference(summary.mean, None, None, summary.n)
    from scipy.special import stdtrit  # the t distribution's quantile; loaded only where it is needed

    quantile = float(stdtrit(summary.n - 1, (1 + CONFIDENCE) / 2))
    half = quantile * summary.deviation / math.sqrt(summary.n)
    return Difference(summary.mean, summary.mean - half, summary.mean + half, summary.n)
