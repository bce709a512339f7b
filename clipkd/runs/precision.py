"""The number format of the students' matrix products, where a run may choose it.

`bf16` is `torch.autocast` to bfloat16: weights, moments, normalisation, softmax, the sums of the residual
blocks, losses and evaluation stay float32. It is fast if the hardware multiplies bfloat16, and several times
slower if not: on a CPU, `auto` measures it, once per machine. Products that stay float32 are in TF32 on a GPU, as with
`tf32` all are; with `fp32` none is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from clipkd.core.device import float32_products, has_tf32
from clipkd.core.errors import InputError
from clipkd.core.linear import linear
from clipkd.core.processor import least_seconds, remembered
from clipkd.core.progress import say
from clipkd.plugins.students import NetworkSpec, StudentSpec
from clipkd.spec.settings import StudentPrecision

WORTH = 1.3
"""A CPU's bfloat16 products must be this many times faster. A smaller gain is lost to conversions, and could change
from one measurement to the next, while the precision is a part of the run's identity."""
MEASUREMENT = 2
"""Bumped when the measurement changes."""


def resolved(asked: StudentPrecision, device: torch.device, student: NetworkSpec) -> StudentPrecision:
    """Return the precision that `auto` means for a student on a device; a named one as it is.

    On a CPU, `auto` is bf16 only for our own students, whose time is matrix products. Of timm's, those with depthwise
    convolutions take 1.2 to 1.3 times as long in bf16 as in float32 there, where a product takes half as long.

    Raises:
        InputError: the device has no TF32.
    """
    if asked == "tf32" and not has_tf32(device):
        raise InputError(f"precision tf32: this device ({device}) has no TF32, a GPU from Ampere on has it; take auto")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if isinstance(student, StudentSpec) and cpu_gain() > WORTH else "fp32"


@cache
def cpu_gain() -> float:
    """Return how many times faster this CPU multiplies bfloat16 than float32, and say it."""
    measured = remembered("bfloat16_gain", MEASUREMENT, ["product"], lambda: {"product": measured_gain()})
    gain = measured["product"]
    say(
        f"precision: this CPU multiplies bfloat16 at {gain:.2f} times the speed of float32; `auto` takes bf16 from "
        f"{WORTH} on"
    )
    return gain


def measured_gain(size: int = 384, rounds: int = 10) -> float:
    """Return the least time of a product in float32 by that in bfloat16."""
    left = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    reduced = left.bfloat16()
    took = least_seconds({"float32": lambda: linear(left, left), "bfloat16": lambda: linear(reduced, reduced)}, rounds)
    return took["float32"] / took["bfloat16"]


def autocast(precision: StudentPrecision, device: torch.device) -> AbstractContextManager:
    """Return the context that a student's forward pass runs in."""
    assert precision != "auto"
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def rest(precision: StudentPrecision, device: torch.device) -> AbstractContextManager:
    """Return the context of a training: on a GPU, what stays float32 is multiplied in TF32, unless all is `fp32`."""
    return float32_products("float32" if precision == "fp32" else "tf32", device)
