"""Tiny checkpoints of every family of teachers, random weights, as `save_pretrained` leaves them: a few KB each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it)

import transformers  # isort: skip
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # isort: skip

SIDE, PATCH, WIDTH, SHARED = 24, 8, 16, 12
"""Pixels of the input and of a patch; dimensions of a hidden state, and of CLIP's shared space."""
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}
START, END = "<|start|>", "<|end|>"
WORDS = "a photo of this is the cat dog zebra zero one two three four five six seven eight nine 0 1 2 3 4 5 6 7 8 9 ."
TOWER = SIZES | {"intermediate_size": 32}
NAFLEX = {name: value for name, value in TOWER.items() if name != "image_size"} | {"num_patches": 9}
TEXT = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": len(WORDS.split()) + 3, "max_position_embeddings": 20,
}  # fmt: skip
PROCESSORS: dict[str, dict[str, Any]] = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}, "resample": 2},
    "clip": {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": 24, "width": 24},
    },
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 24, "width": 24}, "resample": 3},
    "dinov2": {
        "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 28}, "resample": 3,
        "do_center_crop": True, "crop_size": {"height": 24, "width": 24},
    },
}  # fmt: skip
PROCESSORS["siglip2"] = PROCESSORS["siglip"]
DEIT = {"image_processor_type": "DeiTImageProcessor", "size": {"height": 28, "width": 28}}
FORMS = {
    "ViTModel": "", "ViTForImageClassification": "vit", "ViTForMaskedImageModeling": "vit",
    "DeiTModel": "", "DeiTForImageClassification": "deit", "DeiTForImageClassificationWithTeacher": "deit",
    "DeiTForMaskedImageModeling": "deit",
    "Dinov2Model": "", "Dinov2ForImageClassification": "dinov2", "Dinov2Backbone": "",
    "Dinov2WithRegistersModel": "", "Dinov2WithRegistersForImageClassification": "dinov2_with_registers",
    "Dinov2WithRegistersBackbone": "",
    "CLIPModel": "vision_model", "CLIPVisionModel": "", "CLIPVisionModelWithProjection": "vision_model",
    "CLIPForImageClassification": "vision_model",
    "SiglipModel": "vision_model", "SiglipVisionModel": "", "SiglipForImageClassification": "vision_model",
}  # fmt: skip
"""Classes of transformers that hold a vision encoder of a known family, and where: each saves it in its own form."""
MEAN, STD = [0.48, 0.45, 0.4], [0.26, 0.27, 0.28]


def model_of(family: str) -> transformers.PreTrainedModel:
    """Return a random model of a family, with what its checkpoints on the hub hold."""
    makers = {
        "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**TOWER)),
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SIZES)),
        "clip": lambda: transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config=TEXT | {"bos_token_id": 1, "eos_token_id": 2 + len(WORDS.split())},
                vision_config=TOWER,
                projection_dim=SHARED,
            )
        ),
        "siglip": lambda: transformers.SiglipModel(
            transformers.SiglipConfig(text_config=dict(TEXT), vision_config=TOWER)
        ),
        "siglip2": lambda: transformers.Siglip2Model(
            transformers.Siglip2Config(text_config=dict(TEXT), vision_config=NAFLEX)
        ),
    }
    torch.manual_seed(0)
    model = makers[family]()
    # Fresh weights are tiny; larger ones make different images differ.
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def quiet() -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def save(family: str, folder: Path, **changes: Any) -> Path:
    """Save a model of a family, its image processor and, where it has a text tower, its tokenizer."""
    quiet()
    model_of(family).save_pretrained(folder)
    rules = PROCESSORS[family] | {"image_mean": MEAN, "image_std": STD, "do_rescale": True, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(rules | changes))
    made = {"clip": tokenizer, "siglip": siglip_tokenizer, "siglip2": gemma_tokenizer}
    if family in made:
        made[family]().save(str(folder / "tokenizer.json"))
    return folder


def form_of(kind: str) -> transformers.PreTrainedModel:
    """Return a random model of a class in FORMS; no two of its weights are equal, biases and scales included."""
    family = re.split("Model|Vision|For|Backbone", kind)[0]
    towers = {"text_config": dict(TEXT), "vision_config": TOWER}
    if family in {"CLIP", "Siglip"} and "Vision" not in kind:
        config = getattr(transformers, f"{family}Config")(**towers, num_labels=3)
    else:
        name = f"{family}Vision" if family in {"CLIP", "Siglip"} else family
        config = getattr(transformers, f"{name}Config")(**(SIZES if name.startswith("Dino") else TOWER), num_labels=3)
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.3)
    return model


def save_form(kind: str, folder: Path) -> transformers.PreTrainedModel:
    """Save a model of a class in FORMS and its image processor, as transformers does it; return the model."""
    quiet()
    model = form_of(kind)
    model.save_pretrained(folder)
    families = {"ViT": "vit", "Dinov2": "dinov2", "CLIP": "clip", "Siglip": "siglip"}
    known = (PROCESSORS[family] for name, family in families.items() if kind.startswith(name))
    rules = next(known, PROCESSORS["clip"] | DEIT)
    pil = getattr(transformers, rules["image_processor_type"] + "Pil")
    pil(**rules | {"image_mean": MEAN, "image_std": STD}).save_pretrained(folder)
    return model


def siglip_tokenizer() -> Tokenizer:
    """Return a tokenizer of whole words in the form of SigLIP's: no start token, `</s>` at the end, `<pad>` unused."""
    return ending(["<pad>", "</s>", "<unk>", *WORDS.split()], "</s>")


def gemma_tokenizer() -> Tokenizer:
    """Return a tokenizer of whole words in the form of SigLIP 2's, which is Gemma's: `</s>` is a word like others."""
    return ending(["<pad>", "<eos>", "<unk>", *[word for word in WORDS.split() if word != "."], "</s>"], "<eos>")


def ending(words: list[str], end: str) -> Tokenizer:
    """Return a tokenizer of words that puts one token behind every text; it leaves capitals as they are."""
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, words.index(end))])
    return made


def tokenizer() -> Tokenizer:
    """Return a tokenizer of whole words, in the form of CLIP's: a start token, words in small letters, an end token."""
    words = ["<unk>", START, *WORDS.split(), END]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 1), (END, len(words) - 1)]
    )
    return made
