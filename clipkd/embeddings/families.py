"""Families of encoders: everything that is specific to an architecture. A new family is one entry here.

`model_type` of a checkpoint's config.json names the family, `image_processor_type` of its preprocessor_config.json
the defaults of its image processor.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

POOLER = "pooler."
HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.", "decoder.", "embeddings.mask_token")
"""Weights after or beside the encoder, which its outputs do not depend on. Here and below, names of weights are
those of clipkd.embeddings.weights.plain: without the levels around a vision encoder."""
POSITIONS = ("text_model.embeddings.position_ids", "embeddings.position_ids")
"""Counted, not learned; older checkpoints contain them."""


@dataclass(frozen=True)
class Block:
    """Names of the parts of a pre-norm encoder block in transformers."""

    attention: str = "attention"
    norm: str = "layernorm_before"
    """The normalisation before the attention."""
    output: str = "o_proj"
    """The attention's output projection; the others are `q_proj`, `k_proj` and `v_proj`."""


@dataclass(frozen=True)
class VisionFamily:
    """The vision encoder of a family."""

    model: str
    """Class in transformers."""
    tokens: Callable[[Any], int] = lambda config: 1
    """Number of tokens before the patches in the last hidden state (class, distillation, registers), from the
    model's config."""
    has_class_token: bool = True
    unused: tuple[str, ...] = HEADS
    """Prefixes of weights that a checkpoint may hold and the encoder does not use."""
    pooler: str = POOLER
    """Prefix of the pooler's own weights; "": it has none."""
    has_classifier: bool = False
    """Whether a checkpoint's `classifier` is a linear layer on the class token alone."""
    has_fixed_size: bool = True
    """Whether the input must have the size in the config (others interpolate their positions)."""
    block: Block | None = None
    """For computing the class token alone in the last block; None: all its tokens are computed."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What is set in the model's config: masked image modelling sees whole images."""
    inputs: Callable[[Any, Any], Mapping[str, Any]] = lambda config, images: {}
    """What the model is given beside the images [B, 3, S, S], from its config and them."""


@dataclass(frozen=True)
class TextFamily:
    """The text encoder of a family, loaded as part of the whole model."""

    model: str
    """Class of both towers in transformers."""
    end: Callable[[Any, Any, list[int]], int | None]
    """The end token, from the encoder's config, the tokenizer and a text's tokens."""
    padding: Callable[[Any, int], int]
    """The padding token, from the tokenizer and the end token."""
    projection: str = ""
    """The layer from the text encoder to the shared space; "": the encoder ends there."""
    image_projection: str = ""
    """The weight from the vision encoder's pooler to the shared space; "": the encoder ends there."""
    has_fixed_length: bool = False
    """Whether each text is padded to the encoder's length, because every token attends to the padding."""
    normalise: Callable[[str, Any], str] = lambda text, tokenizer: text
    """A text as the encoder was trained to read it, where its tokenizer.json does not ensure that."""


@dataclass(frozen=True)
class Family:
    """An architecture, by its encoders."""

    vision: VisionFamily | None = None
    text: TextFamily | None = None


@dataclass(frozen=True)
class ProcessorDefaults:
    """What an image processor does where its file says nothing."""

    short_side: bool = False
    """A plain number as `size` is the short side, not both."""
    crop: bool = False
    resample: int = 2
    """PIL's number of the filter."""
    crop_pct: float | None = None
    """The short side is resized to `size` over this share, and `size` is cut out; None: there is no such rule."""


def clip_end(config: Any, tokenizer: Any, ids: list[int]) -> int | None:
    """Return CLIP's end token; in older files 2 means the highest number, as transformers reads it."""
    return max(ids, default=-1) if config.eos_token_id == 2 else int(config.eos_token_id)


def siglip_end(config: Any, tokenizer: Any, ids: list[int]) -> int | None:
    """Return SigLIP's end token, of Gemma's tokenizer or of sentencepiece; its config names another token."""
    found: int | None = tokenizer.token_to_id("<eos>" if is_gemma(tokenizer) else "</s>")
    return found


def siglip_padding(tokenizer: Any, end: int) -> int:
    """Return SigLIP's padding token: the end token; Gemma's tokenizer (SigLIP 2) has a separate one."""
    padding: int | None = tokenizer.token_to_id("<pad>")
    return padding if is_gemma(tokenizer) and padding is not None else end


def is_gemma(tokenizer: Any) -> bool:
    """Return whether a tokenizer is Gemma's, as in SigLIP 2."""
    return tokenizer.token_to_id("<eos>") is not None


def siglip_text(text: str, tokenizer: Any) -> str:
    """Return a text in lowercase and, except for SigLIP 2, without punctuation, as SigLIP was trained to read it."""
    text = text.lower()
    if is_gemma(tokenizer):
        return text
    return " ".join(text.translate(str.maketrans("", "", string.punctuation)).split())


VIT = VisionFamily("ViTModel", has_classifier=True, block=Block())
DINOV2 = VisionFamily("Dinov2Model", pooler="", has_fixed_size=False, block=Block(norm="norm1"))
CLIP = VisionFamily(
    "CLIPVisionModel",
    unused=("text_model.", "text_projection.", "visual_projection.", "logit_scale", "classifier.", *POSITIONS),
    pooler="",
    block=Block("self_attn", "layer_norm1", "out_proj"),
)
SIGLIP = VisionFamily(
    "SiglipVisionModel",
    tokens=lambda config: 0,
    has_class_token=False,
    unused=("text_model.", "logit_scale", "logit_bias", "classifier.", *POSITIONS),
    pooler="head.",
)
AIMV2 = VisionFamily(
    "Aimv2VisionModel",
    tokens=lambda config: 0,
    has_class_token=False,
    unused=("text_model.", "text_projection.", "visual_projection.", "logit_scale", *POSITIONS),
    pooler="head.",
)
DINOV3 = VisionFamily(
    "DINOv3ViTModel",
    tokens=lambda config: 1 + int(config.num_register_tokens),
    pooler="",
    has_fixed_size=False,
)
CONVOLUTIONAL = VisionFamily(
    "ResNetModel", tokens=lambda config: 0, has_class_token=False, pooler="", has_fixed_size=False
)
"""The last hidden state is a map [B, D, H, W]."""


def in_order(config: Any, images: Any) -> dict[str, Any]:
    """Return what keeps the patches of a masked autoencoder in their order, instead of shuffling them."""
    import torch

    patches = (images.shape[-1] // config.patch_size) ** 2
    return {"noise": torch.arange(patches, device=images.device, dtype=torch.float32).expand(len(images), -1)}


CLIP_TEXT = TextFamily(
    "CLIPModel",
    end=clip_end,
    padding=lambda tokenizer, end: end,
    projection="text_projection",
    image_projection="visual_projection.weight",
)
SIGLIP_TEXT = TextFamily(
    "SiglipModel", end=siglip_end, padding=siglip_padding, has_fixed_length=True, normalise=siglip_text
)

FAMILIES = {
    "vit": Family(VIT),
    "deit": Family(replace(VIT, model="DeiTModel", tokens=lambda config: 2)),
    "dinov2": Family(DINOV2),
    "dinov2_with_registers": Family(
        replace(DINOV2, model="Dinov2WithRegistersModel", tokens=lambda config: 1 + int(config.num_register_tokens))
    ),
    "dinov3_vit": Family(DINOV3),
    # Its class token is the mean of the last map, normalised with it.
    "dinov3_convnext": Family(replace(DINOV3, model="DINOv3ConvNextModel", tokens=lambda config: 1)),
    "vit_mae": Family(
        replace(
            VIT,
            model="ViTMAEModel",
            pooler="none",
            has_classifier=False,
            block=None,
            changes={"mask_ratio": 0.0},
            inputs=in_order,
        )
    ),
    "beit": Family(VisionFamily("BeitModel", unused=(*HEADS, "lm_head.", "decode_head.", "auxiliary_head."))),
    "swin": Family(VisionFamily("SwinModel", tokens=lambda config: 0, has_class_token=False, pooler="")),
    "convnext": Family(replace(CONVOLUTIONAL, model="ConvNextModel")),
    "convnextv2": Family(replace(CONVOLUTIONAL, model="ConvNextV2Model")),
    "resnet": Family(CONVOLUTIONAL),
    "aimv2": Family(AIMV2),
    "aimv2_vision_model": Family(AIMV2),
    "clip": Family(CLIP, CLIP_TEXT),
    "clip_vision_model": Family(CLIP),
    "metaclip_2": Family(replace(CLIP, model="MetaClip2VisionModel")),
    "metaclip_2_vision_model": Family(replace(CLIP, model="MetaClip2VisionModel")),
    "siglip": Family(SIGLIP, SIGLIP_TEXT),
    "siglip_vision_model": Family(SIGLIP),
    # SigLIP 2 of one image size calls itself `siglip`; this one takes images of any size, which is not supported.
    "siglip2": Family(text=replace(SIGLIP_TEXT, model="Siglip2Model")),
}
"""model_type -> family."""

PROCESSORS = {
    "CLIP": ProcessorDefaults(short_side=True, crop=True, resample=3),
    "Bit": ProcessorDefaults(short_side=True, crop=True, resample=3),
    "ConvNext": ProcessorDefaults(short_side=True, resample=3, crop_pct=224 / 256),
    "DeiT": ProcessorDefaults(crop=True, resample=3),
    "Siglip": ProcessorDefaults(resample=3),
}
"""Beginning of image_processor_type -> defaults; those of all others are ViT's."""


def vision_family(model_type: str) -> VisionFamily | None:
    """Return the vision encoder of a family; None if the family or its encoder is unknown."""
    return FAMILIES.get(model_type, Family()).vision


def text_family(model_type: str) -> TextFamily | None:
    """Return the text encoder of a family; None if the family or its encoder is unknown."""
    return FAMILIES.get(model_type, Family()).text


def processor_defaults(image_processor_type: str) -> ProcessorDefaults:
    """Return the defaults of an image processor."""
    known = (defaults for name, defaults in PROCESSORS.items() if image_processor_type.startswith(name))
    return next(known, ProcessorDefaults())
