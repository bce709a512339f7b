"""The faster forward pass is the same function, for each family; what differs is not used, with a message."""

from __future__ import annotations

import copy

import pytest
import torch

from clipkd.core.linear import Linear
from clipkd.embeddings import acceleration
from clipkd.embeddings.acceleration import ClassTokenBlock, accelerate
from clipkd.embeddings.families import VIT, vision_family
from clipkd.embeddings.teacher import load
from clipkd.plugins import teachers
from tests import checkpoints

import transformers  # isort: skip

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 24, "patch_size": 8}
MODELS = {
    "vit": (transformers.ViTModel, transformers.ViTConfig, {"intermediate_size": 64}),
    "deit": (transformers.DeiTModel, transformers.DeiTConfig, {"intermediate_size": 64}),
    "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config, {"mlp_ratio": 2}),
    "dinov2_with_registers": (
        transformers.Dinov2WithRegistersModel,
        transformers.Dinov2WithRegistersConfig,
        {"mlp_ratio": 2},
    ),
    "clip": (transformers.CLIPVisionModel, transformers.CLIPVisionConfig, {"intermediate_size": 64}),
    "siglip": (transformers.SiglipVisionModel, transformers.SiglipVisionConfig, {"intermediate_size": 64}),
}
WITH_CLASS_TOKEN = [name for name in MODELS if name != "siglip"]


def encoder(name: str) -> torch.nn.Module:
    """Return a small random encoder whose blocks matter."""
    torch.manual_seed(0)
    kind, config, more = MODELS[name]
    model = kind(config(**SIZES, **more)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def blocks_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    (blocks,) = (part for part in model.modules() if isinstance(part, torch.nn.ModuleList))
    return blocks


@pytest.mark.parametrize("name", WITH_CLASS_TOKEN)
def test_class_token_equals_that_of_the_original_network(name, capsys):
    plain = encoder(name)
    fast = copy.deepcopy(plain)
    accelerate(fast, "toy", True, vision_family(name).block)
    assert capsys.readouterr().err == ""
    assert isinstance(blocks_of(fast)[-1], ClassTokenBlock)
    images = torch.randn(5, 3, 24, 24)
    expected, found = (model(pixel_values=images) for model in (plain, fast))
    assert found.last_hidden_state.shape[1] == 1, "no other token is computed"
    torch.testing.assert_close(found.last_hidden_state[:, 0], expected.last_hidden_state[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in fast.parameters()) == sum(p.numel() for p in plain.parameters())
    # The control: another token of the last block is a different vector.
    assert not torch.allclose(found.last_hidden_state[:, 0], expected.last_hidden_state[:, 1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("family", "output"), [("clip", "cls"), ("clip", "mean"), ("clip", "pooler"),
                                                ("siglip", "mean"), ("siglip", "pooler"),
                                                ("dinov2", "cls"), ("dinov2", "mean")])  # fmt: skip
def test_loading_is_quiet_and_computes_all_tokens_only_where_they_are_read(family, output, tmp_path, capfd):
    """SigLIP has no class token and its pooler attends to every token, so that its last block stays as it is."""
    from clipkd.embeddings.teacher_checkpoint import fetch

    spec = teachers.get(f"{checkpoints.save(family, tmp_path / family)}:{output}")
    fetch(spec, tmp_path / "teacher")
    capfd.readouterr()
    teacher = load(spec, tmp_path / "teacher", torch.device("cpu"))
    assert capfd.readouterr().err == ""
    is_fast = isinstance(blocks_of(teacher.model)[-1], ClassTokenBlock)
    assert is_fast == (family != "siglip" and output != "mean")


def test_a_block_of_unknown_structure_is_kept_with_a_message(capsys):
    class Other(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.inner = block

        def forward(self, tokens, *_):
            return self.inner(tokens)

    model = encoder("vit")
    before = model.layers[-1] = Other(model.layers[-1])
    accelerate(model, "Odd", False, VIT.block)
    assert model.layers[-1] is before
    assert "Odd: computing only the class token in the last block failed" in capsys.readouterr().err


def test_what_differs_on_the_probe_batch_is_not_used(monkeypatch, capsys):
    model = encoder("vit")
    images = torch.randn(2, 3, 24, 24)
    expected = model(pixel_values=images).last_hidden_state

    def scaled(block, names):
        block = copy.deepcopy(block)
        block.attention.v_proj.weight *= 1.01
        return ClassTokenBlock(block, names)

    class Wrong(Linear):
        def forward(self, x):
            return super().forward(x) * 1.001

    monkeypatch.setattr(acceleration, "ClassTokenBlock", scaled)
    monkeypatch.setattr(acceleration, "Linear", Wrong)
    accelerate(model, "Odd", True, VIT.block)
    message = capsys.readouterr().err
    assert "the faster linear layers differ on the probe batch" in message
    assert "in the last block differs on the probe batch; computing all tokens" in message
    assert torch.equal(model(pixel_values=images).last_hidden_state, expected)
