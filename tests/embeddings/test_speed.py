"""A faster pass is the same function: against transformers alone, for each architecture; and what is not is refused."""

from __future__ import annotations

import copy

import pytest
import torch

from clipkd.core.linear import Linear
from clipkd.embeddings import speed
from clipkd.embeddings.speed import ClassTokenBlock, gflop, speed_up

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 24, "patch_size": 8}


def encoder(name: str) -> torch.nn.Module:
    """Return a small random encoder of an architecture, whose blocks matter."""
    from clipkd.core.vision import torchvision  # noqa: F401

    import transformers  # isort: skip

    torch.manual_seed(0)
    kinds = {
        "vit": (transformers.ViTModel, transformers.ViTConfig, {"intermediate_size": 64}),
        "deit": (transformers.DeiTModel, transformers.DeiTConfig, {"intermediate_size": 64}),
        "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config, {"mlp_ratio": 2}),
        "dinov2, registers": (
            transformers.Dinov2WithRegistersModel,
            transformers.Dinov2WithRegistersConfig,
            {"mlp_ratio": 2},
        ),
    }
    kind, config, more = kinds[name]
    model = kind(config(**SIZES, **more)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "dinov2, registers"])
def test_class_tokens_are_the_plain_networks(name, capsys):
    plain = encoder(name)
    fast = copy.deepcopy(plain)
    speed_up(fast, "toy", linear_layers=True)
    assert capsys.readouterr().err == ""
    (blocks,) = (part for part in fast.modules() if isinstance(part, torch.nn.ModuleList))
    assert isinstance(blocks[-1], ClassTokenBlock)
    images = torch.randn(5, 3, 24, 24)
    expected, found = (model(pixel_values=images).last_hidden_state for model in (plain, fast))
    assert found.shape[1] == 1, "no other token is computed"
    torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in fast.parameters()) == sum(p.numel() for p in plain.parameters())
    # The control: another token of the last block is told apart.
    assert not torch.allclose(found[:, 0], expected[:, 1], rtol=1e-2, atol=1e-2)


def test_a_block_of_another_form_is_left_as_it_is_aloud(capsys):
    class Other(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.inner = block

        def forward(self, tokens, *_):
            return self.inner(tokens)

    model = encoder("vit")
    before = model.layers[-1] = Other(model.layers[-1])
    speed_up(model, "Odd", linear_layers=False)
    assert model.layers[-1] is before
    assert "Odd: its last block is of no known form" in capsys.readouterr().err


def test_what_is_not_equal_on_the_probe_is_not_used(monkeypatch, capsys):
    model = encoder("vit")
    images = torch.randn(2, 3, 24, 24)
    expected = model(pixel_values=images).last_hidden_state
    wrong = ClassTokenBlock(model.layers[-1])
    wrong.block.attention.attention = copy.deepcopy(model.layers[-1].attention)
    wrong.block.attention.attention.scaling *= 1.01
    monkeypatch.setattr(speed, "ClassTokenBlock", lambda block: wrong)

    class Wrong(Linear):
        def forward(self, x):
            return super().forward(x) * 1.001

    monkeypatch.setattr(speed, "Linear", Wrong)
    speed_up(model, "Odd", linear_layers=True)
    said = capsys.readouterr().err
    assert "linear layers by oneDNN are not equal" in said
    assert "all its tokens are computed" in said
    assert torch.equal(model(pixel_values=images).last_hidden_state, expected)


def test_operations_are_those_of_vit_b16():
    from clipkd.core.vision import torchvision  # noqa: F401

    import transformers  # isort: skip

    with torch.device("meta"):
        model = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
    # 12 blocks of 24 W^2 T + 4 W T^2, T = 197, W = 768; patches of 16 px: 2 * 3 * 16^2 * 768 * 196.
    expected = 12 * (24 * 768**2 * 197 + 4 * 768 * 197**2) + 2 * 3 * 256 * 768 * 196
    assert gflop(model, 224) == pytest.approx(expected / 1e9, rel=1e-9) == pytest.approx(35.13, abs=0.1)
