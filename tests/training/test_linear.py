"""The linear layer by oneDNN against torch's own, and in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clipkd.core import linear as module
from clipkd.core.linear import Linear, OneDNN, linear

SHAPES = [((4, 65, 32), 96), ((7, 48), 10), ((1, 1, 16), 3)]


def results(function, shape, out, dtype=torch.float32):
    """Return y, dx, dW and db of a function on fixed numbers."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, (out, shape[-1]), out)
    )
    x, weight, bias = (value.to(dtype).requires_grad_() for value in (x, weight, bias))
    y = function(x, weight, bias)
    # A gradient that is no contiguous tensor, as a transposed view gives it.
    dy = torch.randn(y.shape[::-1], generator=generator, dtype=torch.float64).to(dtype).permute(*range(y.ndim)[::-1])
    y.backward(dy)
    return [y.detach(), x.grad, weight.grad, bias.grad]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_outputs_and_gradients_are_torchs_to_rounding(shape, out):
    wanted = results(F.linear, shape, out, torch.float64)
    found = results(OneDNN.apply, shape, out)
    theirs = results(F.linear, shape, out)
    for right, mine, torchs in zip(wanted, found, theirs, strict=True):
        assert mine.shape == right.shape
        if right.numel():
            error, allowed = (mine - right).abs().max(), (torchs - right).abs().max()
            assert error <= 4 * allowed + 1e-6
    again = results(OneDNN.apply, shape, out)
    assert all(torch.equal(first, second) for first, second in zip(found, again, strict=True))


def test_frozen_inputs_and_no_gradients():
    layer = Linear(5, 3)
    x = torch.randn(2, 5)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_float64_and_other_machines_use_torchs_own(monkeypatch):
    taken = []
    monkeypatch.setattr(module, "is_faster_here", lambda: True)
    monkeypatch.setattr(module, "product", lambda *arguments: taken.append(1) or F.linear(*arguments))
    x, weight, bias = torch.randn(2, 5), torch.randn(3, 5), torch.randn(3)
    linear(x.double(), weight.double(), bias.double())
    assert not taken
    linear(x, weight, bias)
    assert taken
    monkeypatch.setattr(module, "is_faster_here", lambda: False)
    linear(x, weight, bias)
    assert len(taken) == 1
