"""Floating-point operations of a Vision Transformer. No torch here."""

from __future__ import annotations


def vit_flop(width: int, layers: int, image_size: int, patch_size: int) -> float:
    """Return the operations of one image's forward pass; a multiplication and an addition count two.

    With P x P patches, T = patches + 1 tokens and width W: a layer's projections and MLP take 24 W^2 T, its
    attention 4 W T^2, and the patch convolution 6 P^2 W a patch.
    """
    patches = (image_size // patch_size) ** 2
    tokens = patches + 1
    layer = 24 * width**2 * tokens + 4 * width * tokens**2
    return float(layers * layer + 6 * patch_size**2 * width * patches)
