"""Resizing on the device against PIL and torchvision, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.data import resampling
from clipkd.data.boxes import random_boxes
from clipkd.data.resampling import resized


def pack(sizes: np.ndarray, generator: np.random.Generator) -> tuple[list[np.ndarray], torch.Tensor, np.ndarray]:
    """Return noisy images of these sizes, the same end to end, and where each begins."""
    images = [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]
    lengths = np.array([image.size for image in images])
    return images, torch.from_numpy(np.concatenate([image.ravel() for image in images])), lengths.cumsum() - lengths


def columns_first(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image resized by PIL in two calls, columns first; one call of Pillow 13 may take the rows first."""
    narrow = Image.fromarray(image).resize((size, len(image)), Image.Resampling.BILINEAR)
    return np.asarray(narrow.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [7, 24, 32, 70])
def test_values_are_pils_to_the_last_bit(size):
    generator = np.random.default_rng(size)
    sizes = generator.integers(1, 150, (60, 2))
    images, flat, starts = pack(sizes, generator)
    boxes = random_boxes(sizes, generator)
    found = resized(flat, starts, sizes, size, boxes).permute(0, 2, 3, 1).numpy()
    whole = resized(flat, starts, sizes, size).permute(0, 2, 3, 1).numpy()
    for place, (image, (top, left, height, width)) in enumerate(zip(images, boxes.tolist(), strict=True)):
        region = image[top : top + height, left : left + width]
        np.testing.assert_array_equal(found[place], columns_first(region, size))
        np.testing.assert_array_equal(whole[place], columns_first(image, size))
        at_once = np.asarray(Image.fromarray(region).resize((size, size), Image.Resampling.BILINEAR))
        assert np.abs(found[place].astype(int) - at_once).max() <= 1


def test_values_are_torchvisions_to_a_level():
    from clipkd.core.vision import torchvision  # noqa: F401

    from torchvision.transforms.v2 import functional  # isort: skip

    generator = np.random.default_rng(0)
    sizes = generator.integers(20, 120, (60, 2))
    images, flat, starts = pack(sizes, generator)
    boxes = random_boxes(sizes, generator)
    found = resized(flat, starts, sizes, 32, boxes)
    moved = torch.roll(found, 1, dims=-1)
    for place, (image, box) in enumerate(zip(images, boxes.tolist(), strict=True)):
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        theirs = functional.resized_crop(tensor, *box, [32, 32], antialias=True)
        exact = functional.resized_crop(tensor.double(), *box, [32, 32], antialias=True)
        assert (found[place].int() - theirs.int()).abs().max() <= 1
        assert (found[place] - exact).abs().max() < 1.01, "8 bits after each pass"
        assert (moved[place].int() - theirs.int()).abs().max() > 1, "a pixel's shift must show"


def test_no_neighbour_block_or_piece_changes_a_bit(monkeypatch):
    generator = np.random.default_rng(1)
    sizes = generator.integers(10, 90, (20, 2))
    _, flat, starts = pack(sizes, generator)
    together = resized(flat, starts, sizes, 48)
    alone = [resized(flat, starts[[row]], sizes[[row]], 48) for row in range(20)]
    assert torch.equal(together, torch.cat(alone))
    monkeypatch.setattr(resampling, "MOST_PIXELS", 1)
    assert torch.equal(together, resized(flat, starts, sizes, 48))
    monkeypatch.setattr(resampling, "BLOCK", 7)
    assert torch.equal(together, resized(flat, starts, sizes, 48))


def test_squares_of_the_size_are_taken_as_they_are():
    generator = np.random.default_rng(2)
    images, flat, starts = pack(np.tile([16, 16], (5, 1)), generator)
    found = resized(flat, starts[[4, 0, 4]], np.tile([16, 16], (3, 1)), 16)
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), np.stack([images[4], images[0], images[4]]))
    # Among images of other sizes, too.
    images, flat, starts = pack(np.array([[3, 5], [16, 16]]), generator)
    found = resized(flat, starts[[1]], np.array([[16, 16]]), 16)
    np.testing.assert_array_equal(found[0].permute(1, 2, 0).numpy(), images[1])
