"""A student as a model of timm: architecture, arguments, and weights under timm's names.

Our vision transformer is, to the last operation, timm's `vit_base_patch16_clip_quickgelu_224` of another size. A timm
student is its body with the classifier put back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from clipkd.plugins.students import PROJECTION_HEAD, NetworkSpec, StudentSpec, TimmSpec
from clipkd.plugins.students._saved import State

CLIP_VIT = "vit_base_patch16_clip_quickgelu_224"
PLAIN = {
    "class_embedding": "cls_token",
    "conv1.weight": "patch_embed.proj.weight",
    "positional_embedding": "pos_embed",
    **{f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")
       for ours, theirs in (("ln_pre", "norm_pre"), ("ln_post", "norm"), ("classifier", "head"))},
}  # fmt: skip
IN_BLOCK = {
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.((?:.+\.|attn\.in_proj_))(weight|bias)")


@dataclass(frozen=True)
class TimmForm:
    """What `timm.create_model` needs to build a student."""

    architecture: str
    arguments: dict[str, Any]
    classifiers: tuple[str, ...]
    """Names of the layers that give class scores; some models have two, whose scores are averaged."""
    is_fixed: bool
    """Whether it takes images of one size only."""


def timm_form(spec: NetworkSpec) -> TimmForm:
    """Return how timm builds a student."""
    from clipkd.core.timm import timm

    if isinstance(spec, StudentSpec):
        size = {"img_size": spec.image_size, "patch_size": spec.patch_size}
        shape = {"embed_dim": spec.width, "depth": spec.layers, "num_heads": spec.heads}
        return TimmForm(CLIP_VIT, size | shape, ("head",), True)
    assert isinstance(spec, TimmSpec)
    known = timm.models.get_pretrained_cfg(spec.model.split(".")[0])
    assert known is not None
    names = known.classifier if isinstance(known.classifier, tuple | list) else (known.classifier,)
    arguments = {"img_size": spec.image_size} if known.fixed_input_size else {}
    return TimmForm(spec.model.split(".")[0], arguments, tuple(map(str, names)), known.fixed_input_size)


def to_timm(state: State, spec: NetworkSpec) -> tuple[State, State]:
    """Return a student's weights under timm's names, and those that only distillation uses under their own."""
    aside = {name: tensor for name, tensor in state.items() if name.startswith(PROJECTION_HEAD)}
    kept = {name: tensor for name, tensor in state.items() if name not in aside}
    if isinstance(spec, StudentSpec):
        found = {clip_name(name): tensor for name, tensor in kept.items()}
        return found | {
            name: found[name].view(1, -1, found[name].shape[-1]) for name in ("cls_token", "pos_embed")
        }, aside
    found = {name.removeprefix("body."): tensor for name, tensor in kept.items() if name.startswith("body.")}
    form = timm_form(spec)
    theirs = whole(form, len(kept["classifier.bias"]))
    for name in form.classifiers:
        # A convolution of one pixel in some models.
        found[f"{name}.weight"] = (
            kept["classifier.weight"].reshape(theirs.get_parameter(f"{name}.weight").shape).clone()
        )
        found[f"{name}.bias"] = kept["classifier.bias"].clone()
    return found, aside


def whole(form: TimmForm, classes: int) -> nn.Module:
    """Return timm's model with fresh weights, its classifier included."""
    from clipkd.core.timm import timm

    return timm.create_model(form.architecture, num_classes=classes, **form.arguments)


def clip_name(name: str) -> str:
    """Return timm's name of a weight of our vision transformer."""
    if name in PLAIN:
        return PLAIN[name]
    block = BLOCK.fullmatch(name)
    assert block is not None, name
    return f"blocks.{block[1]}.{IN_BLOCK[block[2]]}{block[3]}"


def from_timm(state: State, aside: State, spec: NetworkSpec) -> State:
    """Return the state dict that `to_timm` was given."""
    if isinstance(spec, StudentSpec):
        found = {ours: state[theirs] for ours, theirs in PLAIN.items()}
        found["class_embedding"] = found["class_embedding"].flatten()
        found["positional_embedding"] = found["positional_embedding"].flatten(0, 1)
        inner = {theirs: ours for ours, theirs in IN_BLOCK.items()}
        for name, tensor in state.items():
            if name.startswith("blocks."):
                _, number, rest = name.split(".", 2)
                layer, part = rest.rsplit(".", 1)
                found[f"transformer.resblocks.{number}.{inner[f'{layer}.']}{part}"] = tensor
        return found | aside
    classifiers = timm_form(spec).classifiers
    heads = {f"{name}.{part}" for name in classifiers for part in ("weight", "bias")}
    body = {f"body.{name}": tensor for name, tensor in state.items() if name not in heads}
    first = {"weight": state[f"{classifiers[0]}.weight"].flatten(1), "bias": state[f"{classifiers[0]}.bias"]}
    return body | {f"classifier.{part}": tensor for part, tensor in first.items()} | aside
