"""The number format of the students' matrix products, where a run may choose it.

`bf16` is `torch.autocast` to bfloat16: weights, moments, normalisation, softmax, the sums of the residual
blocks, losses and evaluation stay float32. It is fast if the hardware multiplies bfloat16, and several times
slower if not: on a CPU, `auto` measures it.
"""

from __future__ import annotations

import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from clipkd.core.linear import linear
from clipkd.core.progress import say
from clipkd.spec.settings import StudentPrecision

WORTH = 1.3
"""A CPU's bfloat16 products must be this many times faster. A smaller gain is lost to conversions, and could change
from one measurement to the next, while the precision is a part of the run's identity."""


def resolved(asked: StudentPrecision, device: torch.device) -> StudentPrecision:
    """Return the precision that `auto`, `fp32` or `bf16` means on a device."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_gain() > WORTH else "fp32"


@cache
def cpu_gain(size: int = 384, rounds: int = 5) -> float:
    """Return how many times faster this CPU multiplies bfloat16 than float32: the median of a few short rounds."""
    left = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    ratios = []
    for number in range(rounds + 1):
        took = {dtype: seconds_of_product(left.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
        if number:  # the first is for warming up
            ratios.append(took[torch.float32] / took[torch.bfloat16])
    gain = statistics.median(ratios)
    say(f"precision: bfloat16 products are {gain:.2f} times as fast as float32's on this CPU")
    return gain


def seconds_of_product(matrix: torch.Tensor) -> float:
    """Return the time of a matrix product."""
    start = time.perf_counter()
    linear(matrix, matrix)
    return time.perf_counter() - start


def autocast(precision: StudentPrecision, device: torch.device) -> AbstractContextManager:
    """Return the context that a student's forward pass runs in."""
    assert precision != "auto"
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
