"""Numbers over seeds: mean, sample standard deviation, and paired differences with interval and p-value."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
"""Of the verdicts: the share of wrong ones in a list where there is nothing to find, at most."""
EQUAL = 1e-12
"""Differences closer than this are equal: they differ by rounding only."""


FEW_SEEDS = 5
"""Of fewer, a reader is warned."""


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
    over: str = "seeds"
    """What the interval covers the choice of: `seeds`, or `seeds and images`."""

    def times(self, factor: float) -> Difference:
        """Return the difference in another unit."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return replace(self, mean=self.mean * factor, low=low, high=high)

    @property
    def half(self) -> float | None:
        """Half of the interval's width: what this number of seeds could have shown; None without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def verdict(found: Difference | None, p: float | None) -> str:
    """Return `better`, `worse` or `no difference shown`, by a p-value; else why there is none of these."""
    if found is None:
        return "not compared"
    if p is None:
        return "nothing can be concluded"
    if p > LEVEL:
        return "no difference shown"
    return "better" if found.mean > 0 else "worse"


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


def paired_by_image(first: Mapping[int, np.ndarray], second: Mapping[int, np.ndarray]) -> Difference | None:
    """Return the difference of the shares of correct images over the seeds that both have, None where they share none.

    The interval covers the choice of seeds and of test images: mean -+ t(0.975, n - 1) * sqrt(`variance`). It is never
    narrower than that of `paired_difference`, and equal differences have one too, unless no image differs.

    Args:
        first: seed -> which test images are correct, bool [N], in one order of the images for all.
        second: the same of what it is compared with.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    differences = np.stack([first[seed].astype(np.int8) - second[seed] for seed in seeds]).astype(np.float64)
    mean, n = float(differences.mean()), len(seeds)
    spread = variance(differences) if n > 1 else 0.0
    if spread < EQUAL**2:
        return Difference(mean, None, None, n, over="seeds and images")
    return replace(by_student(mean, math.sqrt(spread), n), over="seeds and images")


def variance(differences: np.ndarray) -> float:
    """Return the variance of the mean of differences [n seeds, N images], with respect to seeds and to images.

    It is that of a paired bootstrap in closed form: what an infinite number of draws gives. Drawn are N images and
    n - 1 seeds (J. N. K. Rao and C. F. J. Wu, Resampling inference with complex survey data,
    https://doi.org/10.1080/01621459.1988.10478591). Drawing seeds alone gives `of_seeds`, images alone `of_images`,
    both together the sum of these and of `both`, which is what a single seed and image have beyond their own. That
    part is in each of the three, so that drawing both counts it three times (A. B. Owen, The pigeonhole bootstrap,
    https://arxiv.org/abs/0712.1111); here it counts once.
    """
    n, images = differences.shape
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - by_seed[:, None] - by_image + differences.mean()
    both = float((rest**2).mean()) / ((n - 1) * images)
    of_seeds, of_images = float(by_seed.var()) / (n - 1), float(by_image.var()) / images
    return max(of_seeds, both) + max(of_images, both) - both


def by_student(mean: float, error: float, n: int) -> Difference:
    """Return a mean difference of n seeds with the interval and p-value of its standard error."""
    from scipy.special import stdtr, stdtrit  # Student's t; far quicker to load and to call than scipy.stats

    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return Difference(mean, mean - half, mean + half, n, float(2 * stdtr(n - 1, -abs(mean) / error)))


def corrected(differences: Mapping[int, Difference | None]) -> dict[int, float]:
    """Return the p-values of those differences that have one, corrected by `holm`."""
    p = {index: one.p for index, one in differences.items() if one is not None and one.p is not None}
    return dict(zip(p, holm(list(p.values())), strict=True))


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
