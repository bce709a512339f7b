"""Boxes: the regions of images that random crops show, drawn for many images at once. No torch here."""

from __future__ import annotations

import numpy as np

from clipkd.data.counters import uniforms

SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10
DRAWS = 4 * TRIES
"""Random numbers that a region takes."""
REPLAYED = 8
"""Second half of the key, as in clipkd/data/augmentation.py."""
AT_ONCE = 1 << 16
"""Images whose numbers are in memory at once."""


def random_boxes(sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw RandomResizedCrop's region of each image.

    Area 8 to 100 % of the image's, aspect ratio 3/4 to 4/3 on a logarithmic scale, ten tries, then the largest
    central region whose ratio is allowed: the defaults of torchvision.transforms.RandomResizedCrop, after
    C. Szegedy et al., https://arxiv.org/abs/1409.4842.

    Args:
        sizes: height and width of each image, in pixels [N, 2].
        generator: each call takes TRIES * N * 4 numbers, whatever they are, so that its state tells the next boxes.

    Returns:
        Top, left, height and width of each region, in pixels, int32 [N, 4].
    """
    return boxes_of(sizes, generator.random((4, TRIES, len(sizes))), SCALE)


def boxes_of(sizes: np.ndarray, drawn: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Return RandomResizedCrop's region of each image, int32 [N, 4], of numbers in [0, 1) [4, TRIES, N]."""
    heights, widths = sizes.astype(np.int64).T[:, None, :]
    area = heights * widths * (scale[0] + drawn[0] * (scale[1] - scale[0]))
    low, high = np.log(RATIO)
    ratio = np.exp(low + drawn[1] * (high - low))
    width, height = np.rint(np.sqrt(area * ratio)).astype(np.int64), np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    # A number below 1 times (room + 1), cut off, is an even draw from 0 to room.
    top = (drawn[2] * (heights - height + 1)).astype(np.int64)
    left = (drawn[3] * (widths - width + 1)).astype(np.int64)
    boxes = np.stack([top, left, height, width], axis=-1)
    first = boxes[fits.argmax(axis=0), np.arange(len(sizes))]
    return np.where(fits.any(axis=0)[:, None], first, central_boxes(sizes)).astype(np.int32)


def replayed_views(
    sizes: np.ndarray, images: np.ndarray, count: int, seed: int, mirrors: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` random views of each image: boxes, int32 [N, V, 4], and flips, bool [N, V].

    An image's views depend on the image alone: all who replay views of a dataset replay the same ones, and an image
    keeps its own when others come or go.

    Args:
        sizes: height and width of each image, in pixels [N, 2].
        images: what stands for each, uint64 [N] (clipkd/data/image_digests.py).
        count: V.
        seed: of the views.
        mirrors: whether half of them are mirrored.
    """
    boxes, flips = np.empty((len(sizes), count, 4), np.int32), np.empty((len(sizes), count), bool)
    for start in range(0, len(sizes), AT_ONCE):
        here = slice(start, start + AT_ONCE)
        for view in range(count):
            drawn = uniforms((seed, REPLAYED), images[here], DRAWS + 1, view)
            boxes[here, view] = boxes_of(sizes[here], drawn[:DRAWS].reshape(4, TRIES, -1), SCALE)
            flips[here, view] = (drawn[DRAWS] < 0.5) & mirrors
    return boxes, flips


def central_boxes(sizes: np.ndarray) -> np.ndarray:
    """Return the largest central region of each image [N, 4] whose aspect ratio lies in RATIO."""
    heights, widths = sizes.astype(np.int64).T
    ratios = widths / heights
    width = np.where(ratios > RATIO[1], np.rint(heights * RATIO[1]).astype(np.int64), widths)
    height = np.where(ratios < RATIO[0], np.rint(widths / RATIO[0]).astype(np.int64), heights)
    return np.stack([(heights - height) // 2, (widths - width) // 2, height, width], axis=-1)


def whole(sizes: np.ndarray) -> np.ndarray:
    """Return the boxes [N, 4] that leave images of these sizes [N, 2] as they are."""
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1)


def scaled(boxes: np.ndarray, sizes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return boxes [N, 4] of images of `sizes` [N, 2] in the same images at other sizes [N, 2].

    Edges fall on the nearest pixel's edge; a box keeps at least one pixel.
    """
    begin = boxes[:, :2].astype(np.int64)
    end = begin + boxes[:, 2:]
    begin, end = ((2 * edge * others + sizes) // (2 * sizes) for edge in (begin, end))
    begin = np.minimum(begin, others - 1)
    return np.concatenate([begin, np.maximum(end - begin, 1)], axis=1)
