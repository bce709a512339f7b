"""Families of text towers: how each is loaded, and how its texts become token numbers."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

POSITIONS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Counted up, not learned; older checkpoints hold them."""


@dataclass(frozen=True)
class TextFamily:
    """What is known of one architecture."""

    model: str
    """The class of both towers in transformers."""
    projection: str
    """The layer behind the text tower that leads to the space of both towers; "": the tower ends in it."""
    end: Callable[[Any, Any, list[int]], int | None]
    """The number of the token that ends a text, from the tower's config, the tokenizer and the text's tokens."""
    padding: Callable[[Any, int], int]
    """The number of the token that fills up a text, from the tokenizer and the end token."""
    has_fixed_length: bool
    """Whether every text is filled up to the tower's length, not to the longest of a batch: the tower sees it all."""
    image_projection: str = ""
    """The weight that leads there from the vision tower's pooler; "": the tower ends in it."""
    written: Callable[[str, Any], str] = lambda text, tokenizer: text
    """A text as the tower was trained to read it, where its tokenizer.json need not see to that."""


def end_of_clip(config: Any, tokenizer: Any, ids: list[int]) -> int | None:
    """Return CLIP's end token; older files say 2 and mean the highest number, and transformers reads them so too."""
    return max(ids, default=-1) if config.eos_token_id == 2 else config.eos_token_id


def end_of_siglip(config: Any, tokenizer: Any, ids: list[int]) -> int | None:
    """Return SigLIP's end token, of Gemma's form or of sentencepiece's; the number in its config is another's."""
    return tokenizer.token_to_id("<eos>" if is_gemma(tokenizer) else "</s>")


def padding_of_siglip(tokenizer: Any, end: int) -> int:
    """Return what fills up SigLIP's texts: the end token again; Gemma's tokenizer (SigLIP 2) has one of its own."""
    own = tokenizer.token_to_id("<pad>")
    return own if is_gemma(tokenizer) and own is not None else end


def is_gemma(tokenizer: Any) -> bool:
    """Return whether a tokenizer is of Gemma's form, as in SigLIP 2."""
    return tokenizer.token_to_id("<eos>") is not None


def written_for_siglip(text: str, tokenizer: Any) -> str:
    """Return a text in small letters and, but for SigLIP 2, without punctuation, as SigLIP was trained to read it."""
    small = text.lower()
    if is_gemma(tokenizer):
        return small
    return " ".join(small.translate(str.maketrans("", "", string.punctuation)).split())


CLIP = TextFamily(
    "CLIPModel",
    "text_projection",
    end_of_clip,
    lambda tokenizer, end: end,
    has_fixed_length=False,
    image_projection="visual_projection.weight",
)
SIGLIP = TextFamily(
    "SiglipModel", "", end_of_siglip, padding_of_siglip, has_fixed_length=True, written=written_for_siglip
)
FAMILIES = {"clip": CLIP, "siglip": SIGLIP, "siglip2": replace(SIGLIP, model="Siglip2Model")}
"""model_type of a config.json -> family. (SigLIP 2 of one image size calls itself `siglip`; `siglip2` takes any.)"""
