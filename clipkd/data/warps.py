"""Blurring, moving and resampling of images in batches, as CIFAR-C's libraries do it (clipkd/data/corruptions.py)."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def smoothed(x: Tensor, deviation: float, mode: str, truncate: float) -> Tensor:
    """Return planes [..., S, S] after scipy's Gaussian filter: a linear map, so that of the unit matrix is it."""
    matrix = gaussian(x.shape[-1], deviation, mode, truncate).to(x.device)
    return matrix @ x @ matrix.T


@cache
def gaussian(side: int, deviation: float, mode: str, truncate: float) -> Tensor:
    """Return scipy's one-dimensional Gaussian filter as a matrix [S, S]."""
    from scipy.ndimage import gaussian_filter1d

    return torch.from_numpy(gaussian_filter1d(np.eye(side), deviation, axis=0, mode=mode, truncate=truncate)).float()


@cache
def boxes(before: int, after: int) -> Tensor:
    """Return PIL's resizing by boxes, of one axis, as a matrix [after, before]."""
    unit = Image.fromarray(np.eye(before, dtype=np.float32))
    return torch.from_numpy(np.asarray(unit.resize((before, after), Image.Resampling.BOX)).copy())


def picked(x: Tensor, down: Tensor, along: Tensor) -> Tensor:
    """Return the pixels of planes [B, C, S, S] at rows and columns [B, S, S]."""
    side = x.shape[-1]
    places = (down * side + along).expand(len(x), side, side).reshape(len(x), 1, -1)
    return x.flatten(2).gather(2, places.expand(-1, x.shape[1], -1)).view_as(x)


def moved(x: Tensor, radius: float, deviation: float, degrees: Tensor) -> Tensor:
    """Return planes [B, C, S, S] after ImageMagick's motion blur: half a bell of 2 r + 1 pixels in a direction [B].

    Steps are rounded to whole pixels; beyond the edge lies the edge.
    """
    steps = torch.arange(2 * math.ceil(radius) + 1, device=x.device)
    weights = torch.exp(-(steps**2) / (2 * deviation**2))
    weights = weights / weights.sum()
    places, side = torch.arange(x.shape[-1], device=x.device), x.shape[-1]
    turn = torch.deg2rad(degrees)[:, None, None]
    found = torch.zeros_like(x)
    for step, weight in zip(steps.tolist(), weights, strict=True):
        down = (places[:, None] + torch.ceil(step * torch.sin(turn) - 0.5).long()).clamp(0, side - 1)
        along = (places + torch.ceil(step * torch.cos(turn) - 0.5).long()).clamp(0, side - 1)
        found += weight * picked(x, down, along)
    return found


def zoomed(x: Tensor, factor: float) -> Tensor:
    """Return the middle of planes [B, C, S, S] enlarged (linear, corner on corner, as scipy's zoom)."""
    side = x.shape[-1]
    kept = math.ceil(side / factor)
    top, size = (side - kept) // 2, round(kept * factor)
    part = x[..., top : top + kept, top : top + kept]
    large = F.interpolate(part, size=(size, size), mode="bilinear", align_corners=True)
    trim = (size - side) // 2
    return large[..., trim : trim + side, trim : trim + side]


def sampled(x: Tensor, along: Tensor, down: Tensor, edge: int) -> Tensor:
    """Return planes [B, C, S, S] at places [B, S, S], between pixels linear; mirrored beyond the edge.

    `edge`: 101 repeats no pixel (c b | a b c), 0 repeats the last one (b a | a b c).
    """
    side, aligned = x.shape[-1], edge == 101
    grid = torch.stack([along, down], dim=-1)
    grid = 2 * grid / (side - 1) - 1 if aligned else (2 * grid + 1) / side - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=aligned)


def fractal(numbers: Tensor, size: int, decay: float) -> Tensor:
    """Return height maps of the diamond-square algorithm on a torus, 0 to 1, [B, size, size] of numbers [B, size^2].

    A step halves the grid: the middles of its squares, then those of its diamonds, are the mean of four neighbours and
    a number of a range that shrinks by `decay`.
    """
    heights = numbers.new_zeros(len(numbers), size, size)
    step, wibble, used = size, 100.0, 0

    def mean(total: Tensor) -> Tensor:
        nonlocal used
        count = total[0].numel()
        drawn = numbers[:, used : used + count].reshape(total.shape)
        used += count
        return total / 4 + wibble * wibble * (2 * drawn - 1)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        total = corners + corners.roll(-1, 1)
        heights[:, half::step, half::step] = mean(total + total.roll(-1, 2))
        middles = heights[:, half::step, half::step]
        sides = corners + corners.roll(-1, 2) + middles + middles.roll(1, 1)
        heights[:, ::step, half::step] = mean(sides)
        sides = corners + corners.roll(-1, 1) + middles + middles.roll(1, 2)
        heights[:, half::step, ::step] = mean(sides)
        step, wibble = half, wibble / decay
    heights = heights - heights.amin(dim=(1, 2), keepdim=True)
    return heights / heights.amax(dim=(1, 2), keepdim=True)
