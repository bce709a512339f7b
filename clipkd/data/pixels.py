"""Pixels on their way to a network: resizing, flipping, normalising; in the order that matters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def square(image: np.ndarray, size: int) -> np.ndarray:
    """Return an 8-bit image [H, W, 3] resized to [size, size, 3] (bilinear, antialiased, rounded to 8 bits)."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def squares(images: Sequence[np.ndarray] | np.ndarray, size: int) -> np.ndarray:
    """Return 8-bit images as one array [N, size, size, 3]."""
    if isinstance(images, np.ndarray) and images.shape[1:3] == (size, size):
        return images
    resized = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        resized[row] = square(image, size)
    return resized


def planes(images: np.ndarray) -> Tensor:
    """Return images [N, H, W, 3] as a uint8 tensor [N, 3, H, W] of its own."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def unit(images: Tensor) -> Tensor:
    """Return 8-bit pixels as float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)


def flipped(images: Tensor, flips: Tensor) -> Tensor:
    """Return images [N, 3, H, W] with those marked in `flips` [N] mirrored left to right."""
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images - mean) / std, per channel."""
    # An export traces with tensors that stand for others: none of those may be kept.
    made = per_channel.__wrapped__ if torch.compiler.is_compiling() else per_channel
    centre, scale = (made(tuple(values), images.dtype, images.device) for values in (mean, std))
    return (images - centre) / scale


def unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images * std + mean, per channel: the pixels in [0, 1] that were normalised."""
    centre, scale = (per_channel(tuple(values), images.dtype, images.device) for values in (mean, std))
    return images * scale + centre


@cache
def per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor [1, 3, 1, 1]; sent to a device once, as the host waits for that."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(1, 3, 1, 1)


def enlarged(images: Tensor, size: int) -> Tensor:
    """Return float images [N, 3, H, W] resized to [N, 3, size, size] (bilinear, antialiased)."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
