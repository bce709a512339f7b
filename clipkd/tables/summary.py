"""Numbers over seeds: mean, sample standard deviation, and paired differences with interval and p-value."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

CONFIDENCE = 0.95
EQUAL = 1e-12
"""Differences closer than this are equal: they differ by rounding only."""


class Summary(NamedTuple):
    """Mean and sample standard deviation (divisor n - 1; NaN where n = 1)."""

    mean: float
    deviation: float
    n: int


def summarise(values: Iterable[float]) -> Summary:
    """Return the summary of numbers, NaN where there are none; the order of the numbers has no effect."""
    numbers = [float(value) for value in values if not math.isnan(value)]
    mean = statistics.fmean(numbers) if numbers else math.nan
    return Summary(mean, statistics.stdev(numbers) if len(numbers) > 1 else math.nan, len(numbers))


@dataclass(frozen=True)
class Difference:
    """Mean paired difference, its confidence interval and two-sided p-value, None where none can be estimated."""

    mean: float
    low: float | None
    high: float | None
    n: int
    p: float | None = None
    """Of a mean that is 0; not corrected for other comparisons, as the interval is not."""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `no difference shown`, or `no interval`, by the interval."""
        if self.low is None or self.high is None:
            return "no interval"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return the difference first - second over the seeds that both have, None where they share none.

    The interval is Student's: mean -+ t(0.975, n - 1) * s / sqrt(n), s the sample standard deviation
    of the n differences. One seed gives no interval, nor do equal differences (accuracies are counts
    of images, so that two seeds can differ by exactly as much by chance).
    """
    differences = [first[seed] - second[seed] for seed in first.keys() & second.keys()]
    mean, deviation, n = summarise(differences)
    if n == 0:
        return None
    if n == 1 or max(differences) - min(differences) < EQUAL:
        return Difference(mean, None, None, n)
    return by_student(mean, deviation / math.sqrt(n), n)


def by_student(mean: float, error: float, n: int) -> Difference:
    """Return a mean difference of n seeds with the interval and p-value of its standard error."""
    from scipy.special import stdtr, stdtrit  # Student's t; far quicker to load and to call than scipy.stats

    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return Difference(mean, mean - half, mean + half, n, float(2 * stdtr(n - 1, -abs(mean) / error)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number: at 0.05, the chance of one or more false findings is below 5 %.

    The k-th smallest of m is multiplied by m - k + 1, and is never below a smaller one's
    (S. Holm, A simple sequentially rejective multiple test procedure, https://www.jstor.org/stable/4615733).
    """
    corrected, highest = [0.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, p[index] * (len(p) - place)))
        corrected[index] = highest
    return corrected
