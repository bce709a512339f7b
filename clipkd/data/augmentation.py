"""Views: what a recipe draws of training images beyond a flip, for a batch at once, on the device that it is on.

A view is an image at the student's size: a region, mirrored or not, after RandAugment, mixed with the same view of
another image. It is what a teacher is asked about. Random erasing comes after it and is the student's alone. Every
number is drawn by counter (clipkd/data/counters.py) from a seed, the image and the view's number: whoever has
these three, a run that resumes, one that is trained beside others, or the extraction of a store, makes the same view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkd.data.boxes import DRAWS, boxes_of
from clipkd.data.boxes import SCALE as OWN_SCALE
from clipkd.data.counters import uniforms
from clipkd.data.pixels import flipped, unit
from clipkd.data.rand_augment import NUMBERS, drawn, rand_augment
from clipkd.data.resampling import resized
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.recipes import STRENGTHS, Strength

SCALE = (0.8, 1.0)
"""Share of an image's area that a crop shows, where the dataset has no crops of its own."""
ERASED, AREA, ASPECT, ATTEMPTS = 0.25, (0.02, 1 / 3), (0.3, 1 / 0.3), 10
"""Random erasing: share of the images, of the area, and the aspect ratios (Z. Zhong et al., arXiv 1708.04896; timm)."""
SMOOTHING = 0.1
MIXUP = 0.8
"""Alpha of mixup's beta distribution; cutmix's is 1, an even one."""
BOXES, OPERATIONS, ERASING, NOISE, MIXING, FLIPS, ORDER = range(1, 8)
"""Second halves of the keys, so that no two purposes share numbers; `boxes.REPLAYED` is another."""


@dataclass(frozen=True)
class Mix:
    """How B views are mixed with those of their partners."""

    shares: np.ndarray
    """What is left of each itself, float64 [B]."""
    squares: np.ndarray
    """What its partner fills: top, left, height, width, int64 [B, 4]."""
    is_cut: np.ndarray
    """Whether a square is cut, bool [B]; otherwise all pixels are blended."""


@dataclass(frozen=True)
class DrawnViews:
    """The views of B images, before any pixel is read: R = B, or 2 B where each is mixed with a partner."""

    rows: np.ndarray
    """The images to read, those of the partners last [R]."""
    boxes: np.ndarray
    """The region of each: top, left, height, width, int32 [R, 4]."""
    flips: np.ndarray
    """Which are mirrored, bool [R]."""
    operations: tuple[np.ndarray, np.ndarray] | None
    """RandAugment's operations and arguments, [LAYERS, R] each."""
    mix: Mix | None

    @property
    def count(self) -> int:
        """B."""
        return len(self.rows) if self.mix is None else len(self.rows) // 2


@dataclass(frozen=True)
class Augmentation:
    """How views of a dataset's training images are drawn and made."""

    strength: Strength
    spec: DatasetSpec
    side: int
    """Of a view, in pixels."""
    sizes: np.ndarray
    """Heights and widths of all training images, or of their thumbnails [N, 2]."""
    training: np.ndarray
    """Rows that partners are drawn from: those that are not held out, ascending."""
    images: np.ndarray | None = None
    """What views are drawn by, uint64 [N]: of stored ones the image itself, so that it keeps them when others come or
    go (clipkd/data/image_digests.py); None: its row."""

    def does(self, strength: Strength) -> bool:
        """Return whether what that strength adds is done."""
        return STRENGTHS.index(self.strength) >= STRENGTHS.index(strength)

    def draw(self, seed: int, rows: np.ndarray, views: np.ndarray | int = 0) -> DrawnViews:
        """Return what is shown of images `rows` [B] in their views of these numbers [B], or one for all."""
        views = np.broadcast_to(views, len(rows))
        mix = None
        if self.does("full"):
            numbers = uniforms((seed, MIXING), self.drawn_by(rows), 5, views)
            mix = mixing(numbers[1:], self.side)
            rows, views = np.concatenate([rows, partners(numbers[0], rows, self.training)]), np.tile(views, 2)
        images, shape = self.drawn_by(rows), (4, -1, len(rows))
        scale = OWN_SCALE if self.spec.crops else SCALE
        return DrawnViews(
            rows,
            boxes_of(self.sizes[rows], uniforms((seed, BOXES), images, DRAWS, views).reshape(shape), scale),
            (uniforms((seed, FLIPS), images, 1, views)[0] < 0.5) & self.spec.mirrors,
            drawn(uniforms((seed, OPERATIONS), images, NUMBERS, views)) if self.does("randaugment") else None,
            mix,
        )

    def drawn_by(self, rows: np.ndarray) -> np.ndarray:
        """Return the counters of images."""
        return rows if self.images is None else self.images[rows]

    def make(self, views: DrawnViews, flat: Tensor, starts: np.ndarray) -> Tensor:
        """Return views in [0, 1], float32 [B, 3, S, S].

        Args:
            views: what is shown.
            flat: pixels of the images that lie end to end, uint8 [P * 3].
            starts: where in `flat` each of the R images begins.
        """
        images = resized(flat, starts, self.sizes[views.rows], self.side, views.boxes)
        images = flipped(images, torch.from_numpy(views.flips).to(flat.device, non_blocking=True))
        if views.operations is not None:
            images = rand_augment(images, *views.operations, self.spec.mean_colour)
        pixels = unit(images)
        return pixels if views.mix is None else mixed(pixels[: views.count], pixels[views.count :], views.mix)

    def targets(self, labels: Tensor, views: DrawnViews, classes: int) -> Tensor:
        """Return what is taught of views whose R images have these class numbers: labels [B], or shares [B, C].

        Without classes there are no shares: labels, all of them UNLABELLED.
        """
        if views.mix is None or not classes:
            return labels[: views.count]
        shares = torch.from_numpy(views.mix.shares).to(labels.device, torch.float32, non_blocking=True)
        return mixed_targets(labels[: views.count], labels[views.count :], classes, shares[:, None])

    def for_student(self, inputs: Tensor, seed: int, number: int, rows: np.ndarray, size: int) -> Tensor:
        """Return inputs [N, 3, S, S], a quarter of them with a region erased; all as they were below `full`.

        Args:
            inputs: normalised images, of one batch or of several that follow one another.
            seed, number: the epoch's seed, and the first batch's number in it.
            rows: the images' rows [N].
            size: images of a batch.
        """
        if not self.does("full"):
            return inputs
        regions = erased_boxes(uniforms((seed, ERASING), rows, 1 + 4 * ATTEMPTS), self.side)
        numbers = number + np.arange(-(-len(rows) // size))
        seeds = (uniforms((seed, NOISE), numbers, 1)[0] * 2**53).astype(np.int64).tolist()
        return erased(inputs, regions, [torch.Generator(inputs.device).manual_seed(one) for one in seeds], size)


def stored_views(seed: int, epoch: int, rows: np.ndarray, count: int) -> np.ndarray:
    """Return which of its `count` stored views each image shows in an epoch, int64 [B].

    Each image goes through its views in an order of its own, and after the last one through another: in `count` epochs
    it shows each once.

    Args:
        seed: the run's.
        epoch: its number, from 1.
        rows: the images' [B].
        count: stored views of each.
    """
    turn, place = divmod(epoch - 1, count)
    return uniforms((seed, ORDER), rows, count, turn).argsort(axis=0)[place]


def partners(drawn: np.ndarray, rows: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return for each of `rows` [B] another of the `training` rows [T], even draws of numbers in [0, 1) [B]."""
    place = np.searchsorted(training, rows)
    return training[(place + 1 + (drawn * (len(training) - 1)).astype(np.int64)) % len(training)]


def mixing(drawn: np.ndarray, side: int) -> Mix:
    """Return how views are mixed: by mixup or cutmix, half each.

    H. Zhang et al., mixup, https://arxiv.org/abs/1710.09412; S. Yun et al., CutMix, https://arxiv.org/abs/1905.04899,
    its square cut off at the edges, as in timm.

    Args:
        drawn: numbers in [0, 1) [4, B]: which of the two, the share, and the square's centre.
        side: of a view, in pixels.
    """
    from scipy.special import betaincinv

    which, share, down, right = drawn
    cut = (side * np.sqrt(1 - share)).astype(np.int64)
    centre = (np.stack([down, right]) * side).astype(np.int64)
    first = np.clip(centre - cut // 2, 0, side)
    extent = np.clip(centre + (cut + 1) // 2, 0, side) - first
    is_cut = which >= 0.5
    shares = np.where(is_cut, 1 - extent.prod(axis=0) / side**2, betaincinv(MIXUP, MIXUP, share))
    return Mix(shares, np.concatenate([first, extent]).T, is_cut)


def mixed(images: Tensor, others: Tensor, mix: Mix) -> Tensor:
    """Return images [B, 3, S, S], each blended with the other or with a square of it."""
    shares, squares, is_cut = (
        torch.from_numpy(array).to(images.device, non_blocking=True) for array in (mix.shares, mix.squares, mix.is_cut)
    )
    share = shares.float()[:, None, None, None]
    cut = torch.where(inside(squares, images.shape[-1]), others, images)
    return torch.where(is_cut[:, None, None, None], cut, images * share + others * (1 - share))


def inside(regions: Tensor, side: int) -> Tensor:
    """Return which pixels lie in regions [B, 4], bool [B, 1, S, S]."""
    top, left, height, width = regions.T[:, :, None, None, None]
    x = torch.arange(side, device=regions.device)
    y = x[:, None]
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def mixed_targets(labels: Tensor, others: Tensor, classes: int, share: Tensor | float) -> Tensor:
    """Return share * LS(y) + (1 - share) * LS(y of the other), [B, C]; LS: label smoothing.

    The part of an image without a label is 0: a row's sum is the share of it that is known.
    """
    ours, theirs = (
        (F.one_hot(one.clamp(min=0), classes).float() * (1 - SMOOTHING) + SMOOTHING / classes) * (one >= 0)[:, None]
        for one in (labels, others)
    )
    return ours * share + theirs * (1 - share)


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
    regions = np.stack([top, left, height, width], axis=-1)[fits.argmax(axis=0), np.arange(len(chosen))]
    return np.where((chosen & fits.any(axis=0))[:, None], regions, 0).astype(np.int64)


def erased(inputs: Tensor, regions: np.ndarray, generators: Sequence[torch.Generator], size: int) -> Tensor:
    """Return inputs [N, 3, S, S] with normal noise, pixel by pixel, in the regions [N, 4] that are not empty.

    Each batch of `size` images has a generator of its own.
    """
    rows = np.flatnonzero(regions[:, 2])
    if not len(rows):
        return inputs
    index = torch.from_numpy(rows).to(inputs.device, non_blocking=True)
    chosen = torch.from_numpy(regions[rows]).to(inputs.device, non_blocking=True)
    part = inputs.index_select(0, index)
    noise = torch.empty_like(part)
    counts = np.bincount(rows // size, minlength=len(generators)).tolist()
    for piece, generator in zip(noise.split(counts), generators, strict=True):
        piece.normal_(generator=generator)
    return inputs.index_copy(0, index, torch.where(inside(chosen, inputs.shape[-1]), noise, part))
