"""The linear layer by oneDNN against torch's own, in float64, and which is taken where."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from clipkd.core import linear as module
from clipkd.core.linear import ALL, OWN, PRODUCTS, Linear, Product, linear

SHAPES = [((4, 65, 32), 96), ((7, 48), 10), ((1, 1, 16), 3)]


def apply(x, weight, bias, chosen):
    return Product.apply(x, weight, bias, chosen)


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
@pytest.mark.parametrize("names", [PRODUCTS, *((name,) for name in PRODUCTS)], ids="+".join)
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_outputs_and_gradients_are_torchs_to_rounding(shape, out, names):
    function = partial(apply, chosen=frozenset(names))
    wanted = results(F.linear, shape, out, torch.float64)
    found = results(function, shape, out)
    theirs = results(F.linear, shape, out)
    for right, mine, torchs in zip(wanted, found, theirs, strict=True):
        assert mine.shape == right.shape
        if right.numel():
            error, allowed = (mine - right).abs().max(), (torchs - right).abs().max()
            assert error <= 4 * allowed + 1e-6
    again = results(function, shape, out)
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
    monkeypatch.setattr(module, "chosen_here", lambda: ALL)
    monkeypatch.setattr(module, "onednn", lambda *arguments: taken.append(1) or F.linear(*arguments))
    x, weight, bias = torch.randn(2, 5), torch.randn(3, 5), torch.randn(3)
    linear(x.double(), weight.double(), bias.double())
    assert not taken
    linear(x, weight, bias)
    assert taken
    monkeypatch.setattr(module, "chosen_here", lambda: OWN)
    linear(x, weight, bias)
    assert len(taken) == 1


@pytest.fixture
def unknown_processor(tmp_path, monkeypatch):
    """An empty cache folder, on a processor that oneDNN has not been measured on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module.chosen_here.cache_clear()
    yield
    module.chosen_here.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_each_product_takes_the_library_that_was_clearly_faster(unknown_processor, monkeypatch):
    found = iter([(1.2, 1.05, 0.7), (0.9, 1.2, 0.6), (1.3, 1.01, 2.0)])
    monkeypatch.setattr(module, "gains_once", lambda: dict(zip(PRODUCTS, next(found), strict=True)))
    assert module.chosen_here() == {"output"}, "the median of three decides; 5 % are not worth it"
    module.chosen_here.cache_clear()
    assert module.chosen_here() == {"output"}, "it is remembered for the next process, and not measured again"


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_the_gains_are_measured_on_this_machine():
    gains = module.gains_once()
    assert gains.keys() == set(PRODUCTS)
    assert all(0.02 < gain < 50 for gain in gains.values())


def test_where_onednn_has_no_such_product_torchs_own_is_taken(unknown_processor, monkeypatch):
    def without(*_):
        raise NotImplementedError("Could not run 'mkldnn::_linear_pointwise'")

    monkeypatch.setattr(module, "onednn", without)
    assert module.chosen_here() == OWN
    x, weight = torch.randn(2, 5), torch.randn(3, 5)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
