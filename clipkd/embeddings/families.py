"""Families of vision encoders: how each is loaded, and where its outputs stand.

`tokens` are what stands before the patch tokens of the last hidden state: class, distillation, registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

POOLER = "pooler."
VIT_EXTRAS = ("classifier.", "cls_classifier.", "distillation_classifier.", "embeddings.mask_token")
"""Weights behind or beside the encoder: nothing here depends on them."""


@dataclass(frozen=True)
class Family:
    """What is known of one architecture."""

    model: str
    """The encoder's class in transformers."""
    tokens: Callable[[Any], int]
    """How many tokens precede the patches, from the model's config."""
    has_class_token: bool = True
    unread: tuple[str, ...] = ()
    """Beginnings of the names of weights that the checkpoint may hold and the encoder does not use."""
    pooler: str = POOLER
    """Beginning of the names of the pooler's own weights; "": it has none."""
    has_fixed_size: bool = True
    """Whether the input must have the side that the config says (others interpolate their positions)."""


VIT = Family("ViTModel", lambda config: 1, unread=VIT_EXTRAS)
DINOV2 = Family(
    "Dinov2Model",
    lambda config: 1,
    unread=VIT_EXTRAS,
    pooler="",
    has_fixed_size=False,
)
CLIP = Family(
    "CLIPVisionModel",
    lambda config: 1,
    unread=(
        "text_model.",
        "text_projection.",
        "visual_projection.",
        "logit_scale",
        "vision_model.embeddings.position_ids",
    ),
    pooler="",
)
SIGLIP = Family(
    "SiglipVisionModel",
    lambda config: 0,
    has_class_token=False,
    unread=("text_model.", "logit_scale", "logit_bias", "vision_model.embeddings.position_ids"),
    pooler="vision_model.head.",
)
FAMILIES = {
    "vit": VIT,
    "deit": Family("DeiTModel", lambda config: 2, unread=VIT_EXTRAS),
    "dinov2": DINOV2,
    "dinov2_with_registers": Family(
        "Dinov2WithRegistersModel",
        lambda config: 1 + config.num_register_tokens,
        unread=VIT_EXTRAS,
        pooler="",
        has_fixed_size=False,
    ),
    "clip": CLIP,
    "clip_vision_model": CLIP,
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
}
"""model_type of a config.json -> family."""
