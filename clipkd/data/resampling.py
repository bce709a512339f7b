"""Regions of 8-bit images brought to a square, many at once, on any device: PIL's bilinear resizing, antialiased.

PIL resizes in two passes, each a sum of pixels times weights that are whole numbers of 2^-22, rounded to 8 bits
after each pass. The same sums are taken here, columns first, as matrix products in float64, where they are exact:
no order of summation, device, thread count or neighbour in a batch changes a bit. Where PIL too takes the columns
first (always, before Pillow 13) the results are equal; elsewhere, and against torchvision's `resized_crop` of
tensors, which has coarser weights, they differ by one level at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipkd.data.boxes import whole

BITS = 22
"""Weights are whole numbers of 2^-BITS (PIL's PRECISION_BITS: 32 - 8 - 2)."""
BLOCK = 16
"""New pixels that one matrix product makes, from the window of old pixels that they need."""
MOST_PIXELS = 1 << 22
"""Regions are resized in pieces of so many pixels at most (float64, 3 colours: 100 MB)."""


def resized(flat: Tensor, starts: np.ndarray, sizes: np.ndarray, size: int, boxes: np.ndarray | None = None) -> Tensor:
    """Return images, or regions of them, resized bilinearly with antialiasing.

    Args:
        flat: pixels of images that lie end to end, uint8 [P * 3].
        starts: where in `flat` each image begins [B].
        sizes: each image's height and width, in pixels [B, 2].
        size: the side they are brought to, in pixels.
        boxes: top, left, height and width of each region, in pixels [B, 4]; None: the whole images.

    Returns:
        uint8 [B, 3, size, size], on the device of `flat`.
    """
    bytes_each = size * size * 3
    if boxes is None and (sizes == size).all() and not (starts % bytes_each).any() and not len(flat) % bytes_each:
        return picked(flat, starts, size)
    boxes = whole(sizes) if boxes is None else boxes.astype(np.int64)
    tallest, widest = boxes[:, 2:].max(axis=0).tolist()
    count = max(1, MOST_PIXELS // (tallest * widest))
    first = starts // 3 + boxes[:, 0] * sizes[:, 1] + boxes[:, 1]
    table = torch.from_numpy(np.stack([first, sizes[:, 1], boxes[:, 2], boxes[:, 3]]).astype(np.int64))
    pieces = table.to(flat.device, non_blocking=True).split(count, dim=1)
    return torch.cat([piece_of(flat.view(-1, 3), piece, tallest, widest, size) for piece in pieces])


def squared(images: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Return 8-bit images [H, W, 3] resized as above, uint8 [B, size, size, 3]."""
    lengths = [image.size for image in images]
    flat = torch.from_numpy(np.concatenate([image.ravel() for image in images]))
    starts = np.cumsum([0, *lengths[:-1]])
    made = resized(flat, starts, np.array([image.shape[:2] for image in images]), size)
    return made.permute(0, 2, 3, 1).contiguous().numpy()


def picked(flat: Tensor, starts: np.ndarray, size: int) -> Tensor:
    """Return images that are squares of `size` pixels already, in a row of such squares, uint8 [B, 3, size, size]."""
    rows = torch.from_numpy(starts // (size * size * 3)).to(flat.device, non_blocking=True)
    return flat.view(-1, size, size, 3).index_select(0, rows).permute(0, 3, 1, 2).contiguous()


def piece_of(flat: Tensor, piece: Tensor, tallest: int, widest: int, size: int) -> Tensor:
    """Return regions [B, 3, size, size], given first pixel in `flat` [P, 3], stride, height and width [4, B]."""
    first, stride, height, width = piece
    count = len(first)
    x, across = windows(width, size, widest)
    y = torch.arange(tallest, device=flat.device).minimum(height[:, None] - 1)
    index = first[:, None, None] + x[:, :, None] + y[:, None, :] * stride[:, None, None]
    pixels = flat.index_select(0, index.flatten()).double().view(len(across), across.shape[-1], tallest * 3)
    narrow = rounded(across @ pixels).view(count, -1, tallest, 3)[:, :size]
    y, down = windows(height, size, tallest)
    rows = narrow.transpose(1, 2).reshape(count * tallest, size * 3)
    rows = rows.index_select(0, (y + tallest * torch.arange(count, device=flat.device)[:, None]).flatten())
    small = rounded(down @ rows.view(len(down), down.shape[-1], size * 3)).view(count, -1, size, 3)[:, :size]
    return small.permute(0, 3, 1, 2).to(torch.uint8)


def rounded(sums: Tensor) -> Tensor:
    """Return sums in units of 2^-BITS as whole numbers, halves upwards; in place."""
    return sums.mul_(2.0**-BITS).add_(0.5).floor_()


def windows(lengths: Tensor, size: int, longest: int) -> tuple[Tensor, Tensor]:
    """Return how lines of `lengths` [B] pixels, `longest` at most, become `size` pixels, in K blocks of n pixels.

    A new pixel is a sum of the old ones below a triangle around its centre, which is as wide as two old or two new
    pixels, whichever is more, cut at the line's ends and scaled to a sum of 2^BITS.

    Returns:
        The old pixels in each block's window, int64 [B, K * L]; beyond a line's end its last pixel stands in.
        Their weights, float64 whole numbers [B * K, n, L]. Where n does not divide `size`, the last block runs over.
    """
    device = lengths.device
    blocks = -(-size // BLOCK)
    each = -(-size // blocks)
    scale = lengths.double()[:, None, None, None] / size
    spread = scale.clamp(min=1.0)
    new = torch.arange(blocks * each, device=device, dtype=torch.float64).clamp(max=size - 1)
    centre = (new.view(blocks, each, 1) + 0.5) * scale
    begin = (centre - spread + 0.5).clamp(min=0).floor()
    end = (centre + spread + 0.5).floor().minimum(lengths[:, None, None, None])
    widest = min(longest, math.ceil((each - 1) * longest / size + 2 * max(1.0, longest / size)) + 2)
    old = begin[:, :, :1] + torch.arange(widest, device=device, dtype=torch.float64)
    triangle = (1 - ((old - centre + 0.5) / spread).abs()).clamp(min=0)
    triangle = triangle * ((old >= begin) & (old < end))
    weights = (triangle / triangle.sum(dim=-1, keepdim=True) * 2.0**BITS + 0.5).floor()
    places = old.long().flatten(1).minimum(lengths[:, None] - 1)
    return places, weights.flatten(0, 1)
