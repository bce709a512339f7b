"""Names of a student's weights in transformers: its tower is, to the last operation, a `CLIPVisionModel`.

`CLIPVisionModel.from_pretrained` then loads an export, and its `pooler_output` is the student's embedding. Query,
key and value lie in one matrix in OpenAI's CLIP and here, in three there.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from clipkd.plugins.students._vit import Student
from clipkd.runs.folder import State

PREFIX = "vision_model."
PLAIN = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    **{f"ln_pre.{part}": f"pre_layrnorm.{part}" for part in ("weight", "bias")},  # sic
    **{f"ln_post.{part}": f"post_layernorm.{part}" for part in ("weight", "bias")},
}
IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
THEIRS = {theirs: ours for ours, theirs in IN_BLOCK.items()}
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
HEADS = ("q_proj", "k_proj", "v_proj")


def to_transformers(state: State) -> State:
    """Return a student's weights under transformers' names; what is not the tower's keeps its own."""
    found: State = {}
    for name, tensor in state.items():
        block = BLOCK.fullmatch(name)
        if name in PLAIN:
            found[PREFIX + PLAIN[name]] = tensor
        elif block is None:
            found[name] = tensor
        elif block[2].startswith("attn.in_proj_"):
            part = block[2].removeprefix("attn.in_proj_")
            for head, rows in zip(HEADS, tensor.chunk(3), strict=True):
                found[f"{PREFIX}encoder.layers.{block[1]}.self_attn.{head}.{part}"] = rows
        else:
            inner, _, part = block[2].rpartition(".")
            found[f"{PREFIX}encoder.layers.{block[1]}.{IN_BLOCK[inner]}.{part}"] = tensor
    return found


def from_transformers(state: State) -> State:
    """Return what `to_transformers` was given."""
    plain = {theirs: ours for ours, theirs in PLAIN.items()}
    found: State = {}
    heads: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        short = name.removeprefix(PREFIX)
        layer = LAYER.fullmatch(short)
        if short in plain:
            found[plain[short]] = tensor
        elif layer is None:
            found[name] = tensor
        else:
            inner, _, part = layer[2].rpartition(".")
            block = f"transformer.resblocks.{layer[1]}"
            if inner in THEIRS:
                found[f"{block}.{THEIRS[inner]}.{part}"] = tensor
            else:
                heads.setdefault(f"{block}.attn.in_proj_{part}", {})[inner.removeprefix("self_attn.")] = tensor
    return found | {name: torch.cat([parts[head] for head in HEADS]) for name, parts in heads.items()}


def settings(student: Student, spec: Any) -> dict[str, Any]:
    """Return the keys of config.json that make transformers build this tower."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": spec.width,
        "intermediate_size": 4 * spec.width,
        "projection_dim": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_channels": 3,
        "image_size": spec.image_size,
        "patch_size": spec.patch_size,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": student.ln_pre.eps,
        "attention_dropout": spec.attention_dropout,
    }
