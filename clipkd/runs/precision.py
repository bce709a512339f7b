"""The number format of the students' matrix products, where a run may choose it.

`bf16` is `torch.autocast` to bfloat16: weights, moments, normalisation, softmax, the sums of the residual
blocks, losses and evaluation stay float32. It is fast if the hardware multiplies bfloat16, and several times
slower if not: on a CPU, `auto` measures it, once per machine. Products that stay float32 are in TF32 on a GPU, as with
`tf32` all are; with `fp32` none is.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path

import torch

from clipkd.core.cache import folder
from clipkd.core.device import cpuinfo, float32_products, has_tf32, processor_name
from clipkd.core.errors import ClipkdError, InputError
from clipkd.core.files import read_json, write_json
from clipkd.core.fingerprint import digest
from clipkd.core.linear import linear
from clipkd.core.progress import say
from clipkd.plugins.students import NetworkSpec, StudentSpec
from clipkd.spec.settings import StudentPrecision

WORTH = 1.3
"""A CPU's bfloat16 products must be this many times faster. A smaller gain is lost to conversions, and could change
from one measurement to the next, while the precision is a part of the run's identity."""
PROBE = 1
"""Bumped when the measurement changes: machines are then measured again."""
OF_A_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU part", "Features")
"""What Linux says of a processor and what its speed depends on: two of one name may differ in it."""


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
    gain = remembered_gain()
    say(
        f"precision: on this CPU products in bfloat16 are {gain:.2f} times as fast as in float32; `auto` takes bf16 "
        f"from {WORTH} on"
    )
    return gain


def remembered_gain() -> float:
    """Return the gain as it was measured the first time.

    It is kept in the user's cache folder, by processor and version of torch. Where that can't be written, each command
    measures it.
    """
    try:
        path = memory()
    except RuntimeError:  # the user has no home
        return measured_gain()
    with suppress(ClipkdError, OSError, TypeError, KeyError, ValueError):
        gain = float(read_json(path)["bfloat16_gain"])
        if 0 < gain < math.inf:
            return gain
    gain = measured_gain()
    with suppress(ClipkdError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(path, {"processor": processor_name(), "torch": torch.__version__, "bfloat16_gain": gain})
    return gain


def memory() -> Path:
    """Return the file that remembers the gain of this processor with this torch."""
    said = cpuinfo()
    found = {"name": processor_name(), "torch": torch.__version__, "probe": PROBE}
    found |= {key: said[key] for key in OF_A_PROCESSOR if key in said}
    return folder() / "clipkd" / "processors" / f"{digest(found)[:32]}.json"


def measured_gain(size: int = 384, rounds: int = 10) -> float:
    """Return the ratio of the least times of both formats, on one thread: other processes only ever add to a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return ratio_of_times(size, rounds)
    finally:
        torch.set_num_threads(threads)


def ratio_of_times(size: int, rounds: int) -> float:
    """Return the least time of float32 products by that of bfloat16."""
    left = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    matrices = {dtype: left.to(dtype) for dtype in (torch.float32, torch.bfloat16)}
    took: dict[torch.dtype, list[float]] = {dtype: [] for dtype in matrices}
    for _ in range(rounds + 1):  # the first is for warming up
        for dtype, matrix in matrices.items():
            took[dtype].append(seconds_of_product(matrix))
    return min(took[torch.float32][1:]) / min(took[torch.bfloat16][1:])


def seconds_of_product(matrix: torch.Tensor) -> float:
    """Return the time of a matrix product."""
    start = time.perf_counter()
    linear(matrix, matrix)
    return time.perf_counter() - start


def autocast(precision: StudentPrecision, device: torch.device) -> AbstractContextManager:
    """Return the context that a student's forward pass runs in."""
    assert precision != "auto"
    if precision != "bf16":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def rest(precision: StudentPrecision, device: torch.device) -> AbstractContextManager:
    """Return the context of a training: on a GPU, what stays float32 is multiplied in TF32, unless all is `fp32`."""
    return float32_products("float32" if precision == "fp32" else "tf32", device)
