"""What is wrong with a weight of a file, before a model gets it. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor


def problem_of(weight: Tensor) -> str:
    """Return why a weight can't be used, in words that follow its name; "" where it can."""
    if weight.dtype.is_floating_point and weight.dtype.itemsize == 1:
        kind = str(weight.dtype).removeprefix("torch.")
        return f"is in {kind}, whose scales are kept elsewhere: save the model in float32, bfloat16 or float16"
    return "" if torch.isfinite(weight).all() else "holds a NaN or an infinity"
