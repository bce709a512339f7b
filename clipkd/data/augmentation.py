"""What a recipe does to training images beyond a flip: for a batch at once, on the device that it is on.

The geometry and RandAugment make the view of an image, of 8-bit pixels; random erasing, mixup and cutmix come after it
and are the student's alone. Every number is drawn by counter (clipkd/data/counters.py) from the epoch's seed and the
image's row, or the batch's number: a run that resumes, or that is trained beside others, sees the same images to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkd.data.boxes import DRAWS, boxes_of
from clipkd.data.counters import uniforms
from clipkd.data.rand_augment import NUMBERS, drawn, rand_augment
from clipkd.plugins.recipes import STRENGTHS, Strength

SCALE = (0.8, 1.0)
"""Share of an image's area that a crop shows."""
ERASED, AREA, ASPECT, ATTEMPTS = 0.25, (0.02, 1 / 3), (0.3, 1 / 0.3), 10
"""Random erasing: share of the images, of the area, and the aspect ratios (Z. Zhong et al., arXiv 1708.04896; timm)."""
SMOOTHING = 0.1
MIXUP = 0.8
"""Alpha of mixup's beta distribution; cutmix's is 1, an even one."""
BOXES, OPERATIONS, ERASING, NOISE, MIXING = range(1, 6)
"""Second halves of the keys, so that no two purposes share numbers."""


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one run."""

    strength: Strength
    classes: int
    fill: tuple[int, int, int]
    """Colour of what rotation and shifts bring in: the dataset's mean, 0 to 255."""

    def does(self, strength: Strength) -> bool:
        """Return whether what that strength adds is done."""
        return STRENGTHS.index(self.strength) >= STRENGTHS.index(strength)

    def boxes(self, seed: int, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the region of each image to show: top, left, height, width, int32 [B, 4], of sizes [B, 2]."""
        return boxes_of(sizes, uniforms((seed, BOXES), rows, DRAWS).reshape(4, -1, len(rows)), SCALE)

    def view(self, images: Tensor, seed: int, rows: np.ndarray) -> Tensor:
        """Return images, uint8 [B, 3, S, S], after RandAugment; no pixel changes at a lower strength."""
        if not self.does("randaugment"):
            return images
        return rand_augment(images, *drawn(uniforms((seed, OPERATIONS), rows, NUMBERS)), self.fill)

    def for_student(
        self, inputs: Tensor, labels: Tensor, seed: int, number: int, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return a batch erased and mixed, and its targets; as it was at a lower strength.

        Args:
            inputs: normalised images [B, 3, S, S].
            labels: class numbers [B].
            seed, number, rows: the epoch's seed, the batch's number in it, and the images' rows [B].

        Returns:
            Inputs [B, 3, S, S] and, at full strength, shares of the classes [B, C] in place of labels.
        """
        if not self.does("full"):
            return inputs, labels
        side = inputs.shape[-1]
        boxes = erased_boxes(uniforms((seed, ERASING), rows, 1 + 4 * ATTEMPTS), side)
        generator = torch.Generator(inputs.device).manual_seed(noise_seed(seed, number))
        inputs = erased(inputs, boxes, generator)
        which, share, down, right = uniforms((seed, MIXING), np.array([number]), 4)[:, 0].tolist()
        if which < 0.5:
            from scipy.special import betaincinv

            share = float(betaincinv(MIXUP, MIXUP, share))
            inputs = inputs * share + inputs.flip(0) * (1 - share)
        else:
            inputs, share = cut_mixed(inputs, share, int(down * side), int(right * side))
        return inputs, mixed_targets(labels, self.classes, share)


def noise_seed(seed: int, number: int) -> int:
    """Return the seed of a batch's noise, which the device's own generator draws."""
    return int(uniforms((seed, NOISE), np.array([number]), 1)[0, 0] * 2**53)


def erased_boxes(drawn: np.ndarray, side: int) -> np.ndarray:
    """Return the region of each image to erase, int64 [B, 4]; an empty one for those that stay.

    Args:
        drawn: numbers in [0, 1) [1 + 4 * ATTEMPTS, B].
        side: of the images, in pixels.
    """
    chosen, (area, ratio, down, right) = drawn[0] < ERASED, drawn[1:].reshape(4, ATTEMPTS, -1)
    area = (AREA[0] + area * (AREA[1] - AREA[0])) * side * side
    ratio = np.exp(np.log(ASPECT[0]) + ratio * (np.log(ASPECT[1]) - np.log(ASPECT[0])))
    height, width = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (height < side) & (width < side)
    top, left = np.floor(down * (side - height + 1)), np.floor(right * (side - width + 1))
    boxes = np.stack([top, left, height, width], axis=-1)[fits.argmax(axis=0), np.arange(len(chosen))]
    return np.where((chosen & fits.any(axis=0))[:, None], boxes, 0).astype(np.int64)


def erased(inputs: Tensor, boxes: np.ndarray, generator: torch.Generator) -> Tensor:
    """Return inputs [B, 3, S, S] with normal noise, pixel by pixel, in the boxes [B, 4] that are not empty."""
    rows = np.flatnonzero(boxes[:, 2])
    if not len(rows):
        return inputs
    index = torch.from_numpy(rows).to(inputs.device, non_blocking=True)
    chosen = torch.from_numpy(boxes[rows]).to(inputs.device, non_blocking=True)
    top, left, height, width = chosen.T[:, :, None, None, None]
    x = torch.arange(inputs.shape[-1], device=inputs.device)
    y = x[:, None]
    inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    part = inputs.index_select(0, index)
    noise = torch.empty_like(part).normal_(generator=generator)
    return inputs.index_copy(0, index, torch.where(inside, noise, part))


def cut_mixed(inputs: Tensor, share: float, y: int, x: int) -> tuple[Tensor, float]:
    """Return inputs with a square of the batch in reverse order, and the share of each that is left.

    S. Yun et al., CutMix, https://arxiv.org/abs/1905.04899; as timm cuts it.

    Args:
        inputs: [B, 3, S, S].
        share: of the area that should be left, before the square is cut off at the edges.
        y, x: the square's centre, in pixels.
    """
    side = inputs.shape[-1]
    cut = int(side * (1 - share) ** 0.5)
    top, bottom, left, right = (
        min(max(edge, 0), side) for edge in (y - cut // 2, y + (cut + 1) // 2, x - cut // 2, x + (cut + 1) // 2)
    )
    mixed = inputs.clone()
    mixed[..., top:bottom, left:right] = inputs.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / side**2


def mixed_targets(labels: Tensor, classes: int, share: float) -> Tensor:
    """Return share * LS(y) + (1 - share) * LS(y of the batch in reverse order), [B, C]; LS: label smoothing."""
    smooth = F.one_hot(labels, classes).float() * (1 - SMOOTHING) + SMOOTHING / classes
    return smooth * share + smooth.flip(0) * (1 - share)
