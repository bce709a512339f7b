"""Linear layers at the CPU's speed.

torch multiplies matrices with MKL and also carries oneDNN. Which is faster differs by processor, even among those of
one displayed name, and by product: output, gradient of the input, gradient of the weight (docs/performance.md). So each
takes the library that was faster when this processor was measured. In float64 and on a GPU this is `F.linear`; for S
students at once it is one batched product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipkd.core.processor import least_seconds, remembered

PRODUCTS = ("output", "input gradient", "weight gradient")
WORTH = 1.1
"""oneDNN must be this many times faster, so that the choice does not change from one measurement to the next."""
NO_GAIN = 1e-3
"""Stands for a product that oneDNN does not have on this processor."""
MEASUREMENT = 1
"""Bumped when the measurement changes."""
ROWS, WIDTH, ROUNDS = 1024, 256, 5
"""What is measured: the first layer of an MLP of `base-32` on 1,024 tokens, the least time of five rounds."""

Chosen = frozenset[str]
"""The products that oneDNN takes; the others are torch's own."""
OWN: Chosen = frozenset()
ALL: Chosen = frozenset(PRODUCTS)


@cache
def chosen_here() -> Chosen:
    """Return the products that oneDNN takes on this machine; the same in every run on it."""
    if not torch.backends.mkldnn.is_available():
        return OWN
    gains = remembered("onednn_gains", MEASUREMENT, PRODUCTS, measured_gains)
    return frozenset(name for name in PRODUCTS if gains[name] > WORTH)


def measured_gains() -> dict[str, float]:
    """Return how many times faster oneDNN is than torch's own library, by product: the median of three measurements."""
    found = [gains_once() for _ in range(3)]
    return {name: median(gains[name] for gains in found) for name in PRODUCTS}


def gains_once() -> dict[str, float]:
    """Return one measurement of the gains."""
    generator = torch.Generator().manual_seed(0)
    shapes = (ROWS, WIDTH), (4 * WIDTH, WIDTH), (4 * WIDTH,), (ROWS, 4 * WIDTH)
    x, weight, bias, dy = (torch.randn(shape, generator=generator) for shape in shapes)
    gains = {}
    with torch.inference_mode():
        for name, product in products(x, weight, bias, dy).items():
            try:
                took = least_seconds({"own": partial(product, OWN), "onednn": partial(product, ALL)}, ROUNDS)
            except (AttributeError, NotImplementedError, RuntimeError):  # oneDNN has no such product on this processor
                gains[name] = NO_GAIN
            else:
                gains[name] = took["own"] / took["onednn"]
    return gains


def products(x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor) -> dict[str, Callable[[Chosen], Tensor]]:
    """Return a layer's products, as functions of what oneDNN takes: x [N, I], weight [O, I], bias [O], dy [N, O]."""
    return {
        "output": lambda chosen: output(x, weight, bias, chosen),
        "input gradient": lambda chosen: input_gradient(dy, weight, chosen),
        "weight gradient": lambda chosen: weight_gradient(dy, x, chosen),
    }


def onednn(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows [..., I] times matrix [O, I] transposed, plus bias [O], by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(rows, matrix, bias, "none", [], "")


def output(x: Tensor, weight: Tensor, bias: Tensor | None, chosen: Chosen) -> Tensor:
    """Return y = x W^T + b: x [..., I], weight [O, I], bias [O]."""
    return onednn(x, weight, bias) if "output" in chosen else F.linear(x, weight, bias)


def input_gradient(dy: Tensor, weight: Tensor, chosen: Chosen) -> Tensor:
    """Return dx = dy W: dy [..., O], weight [O, I]."""
    # A transposed view: oneDNN's own kernels read it faster than a copy is made, and give the same bits.
    return onednn(dy, weight.t()) if "input gradient" in chosen else dy @ weight


def weight_gradient(dy: Tensor, x: Tensor, chosen: Chosen) -> Tensor:
    """Return dW = dy^T x: dy [N, O], x [N, I]."""
    return onednn(dy.t(), x.t()) if "weight gradient" in chosen else dy.t() @ x


class Product(torch.autograd.Function):
    """y = x W^T + b with the gradients written out, each by the library that is chosen for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, chosen: Chosen) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.chosen = chosen
        return output(x, weight, bias, chosen)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        dy = dy.contiguous()
        dx = input_gradient(dy, weight, ctx.chosen) if ctx.needs_input_grad[0] else None
        rows = dy.reshape(-1, dy.shape[-1])
        db = rows.sum(dim=0) if ctx.needs_input_grad[2] else None
        return dx, weight_gradient(rows, x.reshape(-1, x.shape[-1]), ctx.chosen), db, None


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
    if is_plain and len(weight) and not torch.compiler.is_exporting() and (chosen := chosen_here()):
        return Product.apply(x, weight, bias, chosen)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
