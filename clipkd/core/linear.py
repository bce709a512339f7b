"""Linear layers at the CPU's speed.

torch multiplies matrices with MKL, which is slow on CPUs that are not Intel's. oneDNN, which torch also
carries, is not: a layer of the student takes about half the time there (docs/performance.md). Elsewhere,
in float64 and on a GPU this is `F.linear`; for S students at once it is one batched product.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipkd.core.device import cpuinfo


@cache
def is_faster_here() -> bool:
    """Return whether this machine's CPU is one on which oneDNN is taken; the same in every run on a machine."""
    return torch.backends.mkldnn.is_available() and cpuinfo().get("vendor_id") == "AuthenticAMD"


def product(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows [..., I] times matrix [O, I] transposed, plus bias [O], by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(rows, matrix, bias, "none", [], "")


class OneDNN(torch.autograd.Function):
    """y = x W^T + b, with the gradients written out: dx = dy W, dW = dy^T x, db = sum of dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        dy = dy.contiguous()
        # Transposed views: oneDNN's own kernels read them faster than copies are made, and give the same bits.
        dx = product(dy, weight.t()) if ctx.needs_input_grad[0] else None
        rows, inputs = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
        db = rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        return dx, product(rows.t(), inputs.t()), db


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [..., I] times weight [O, I] transposed, plus bias [O].

    For S students: x [S, ..., I], weight [S, O, I], bias [S, O].
    """
    if weight.ndim == 3:
        rows, matrices = x.flatten(1, -2), weight.transpose(1, 2)
        y = torch.bmm(rows, matrices) if bias is None else torch.baddbmm(bias[:, None], rows, matrices)
        return y.unflatten(1, x.shape[1:-1])
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    # An exported graph holds only what other runtimes know. A student without classes has a classifier without rows.
    if is_plain and is_faster_here() and len(weight) and not torch.compiler.is_exporting():
        return OneDNN.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
