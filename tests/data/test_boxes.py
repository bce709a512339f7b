"""Boxes of random crops: torchvision's distribution, a pure function of the generator's state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from clipkd.data.boxes import central_boxes, random_boxes, replayed_views, scaled, whole

DRAWS = 6000
SIZES = {"landscape": (60, 80), "thumbnail": (32, 43), "long": (30, 300), "tall": (300, 40)}


def theirs(height: int, width: int) -> np.ndarray:
    """Return boxes that torchvision draws one by one [DRAWS, 4]."""
    from clipkd.core.vision import torchvision

    torch.manual_seed(1)
    image = torch.zeros(3, 1, 1).expand(3, height, width)
    draw = torchvision.transforms.RandomResizedCrop.get_params
    return np.array([draw(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS)])


def ours(height: int, width: int, seed: int = 2) -> np.ndarray:
    return random_boxes(np.tile([height, width], (DRAWS, 1)), np.random.default_rng(seed))


def features(boxes: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    """Return what is compared of boxes: areas, ratios, sides, and where in its room a box lies."""
    top, left, tall, wide = boxes.astype(float).T
    return {
        "area": tall * wide,
        "ratio": wide / tall,
        "height": tall,
        "width": wide,
        "down": top + tall / 2,
        "across": left + wide / 2,
    }


def farthest(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov statistic of two samples of DRAWS, in units of its 0.1 % bound."""
    steps = np.union1d(one, other)
    shares = [np.searchsorted(np.sort(sample), steps, side="right") / len(sample) for sample in (one, other)]
    return np.abs(shares[0] - shares[1]).max() / (1.95 * np.sqrt(2 / DRAWS))


@pytest.mark.parametrize("name", SIZES)
def test_boxes_have_torchvisions_distribution(name):
    size = SIZES[name]
    found, wanted = features(ours(*size), *size), features(theirs(*size), *size)
    for feature in wanted:
        assert farthest(found[feature], wanted[feature]) < 1, feature


def test_other_distributions_are_told_apart():
    """The control: an area drawn by its root, a ratio drawn evenly, a box at the top, must each fail the test above."""
    height, width = SIZES["landscape"]
    wanted = features(theirs(height, width), height, width)
    generator = np.random.default_rng(3)
    area = height * width * generator.uniform(np.sqrt(0.08), 1, DRAWS) ** 2
    assert farthest(area, wanted["area"]) > 1
    right = features(ours(height, width), height, width)
    assert farthest(right["ratio"] ** 1.15, wanted["ratio"]) > 1
    assert farthest(right["height"] / 2, wanted["down"]) > 1
    # And one of the defects this code has had: the whole image where no try fits.
    long = theirs(*SIZES["long"])
    none_fits = (long[:, 2] == 30) & (long[:, 3] == 40)
    assert none_fits.mean() > 0.01
    spoiled = long.copy()
    spoiled[none_fits] = 0, 0, 30, 300
    sizes = SIZES["long"]
    assert farthest(features(spoiled, *sizes)["width"], features(long, *sizes)["width"]) > 1


def test_boxes_lie_in_their_images_whatever_the_sizes():
    generator = np.random.default_rng(4)
    sizes = generator.integers(1, 40, (5000, 2))
    boxes = random_boxes(sizes, generator)
    assert boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    others = generator.integers(1, 400, (5000, 2))
    there = scaled(boxes, sizes, others)
    assert (there[:, :2] >= 0).all()
    assert (there[:, 2:] >= 1).all()
    assert (there[:, :2] + there[:, 2:] <= others).all()
    np.testing.assert_array_equal(scaled(whole(sizes), sizes, others), whole(others))
    np.testing.assert_array_equal(scaled(boxes, sizes, 3 * sizes), 3 * boxes)


def test_boxes_are_a_function_of_the_generators_state_that_sizes_do_not_move():
    first, second = np.random.default_rng(5), np.random.default_rng(5)
    one = random_boxes(np.tile([30, 400], (10, 1)), first)
    random_boxes(np.tile([50, 50], (10, 1)), second)
    assert first.bit_generator.state == second.bit_generator.state
    np.testing.assert_array_equal(one, random_boxes(np.tile([30, 400], (10, 1)), np.random.default_rng(5)))


def test_the_central_region_is_torchvisions_fallback():
    sizes = np.array([[30, 300], [300, 30], [40, 50]])
    # 30 x 300: width 30 * 4/3 = 40, in the middle; 300 x 30: height 30 / (3/4) = 40; 40 x 50 is allowed as it is.
    np.testing.assert_array_equal(central_boxes(sizes), [[0, 130, 30, 40], [130, 0, 40, 30], [0, 0, 40, 50]])


def test_an_image_keeps_its_stored_views_whatever_others_there_are(monkeypatch):
    generator = np.random.default_rng(0)
    sizes, images = generator.integers(20, 90, (40, 2)), generator.integers(0, 2**64, 40, dtype=np.uint64)
    boxes, flips = replayed_views(sizes, images, 3, 0, True)
    order = generator.permutation(40)[:25]
    for at_once in (1 << 16, 7):
        monkeypatch.setattr("clipkd.data.boxes.AT_ONCE", at_once)
        some_boxes, some_flips = replayed_views(sizes[order], images[order], 3, 0, True)
        np.testing.assert_array_equal(some_boxes, boxes[order])
        np.testing.assert_array_equal(some_flips, flips[order])
    others = replayed_views(sizes, images, 3, 1, True)
    assert (others[0] != boxes).any(axis=-1).mean() > 0.9, "another seed, other views"
    assert len(np.unique(boxes.reshape(-1, 4), axis=0)) > 110, "an image's views differ"
    assert not replayed_views(sizes, images, 3, 0, False)[1].any()


def test_stored_views_are_drawn_as_random_crops_are():
    """Area and aspect ratio are even between their bounds (the ratio on a logarithmic scale), half are mirrored."""
    count, side = 20_000, 1000
    images = np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)
    boxes, flips = replayed_views(np.full((count, 2), side), images, 2, 0, True)
    reference = random_boxes(np.full((2 * count, 2), side), np.random.default_rng(1))
    for found, expected in zip(boxes.reshape(-1, 4).T, reference.T, strict=True):
        assert stats.ks_2samp(found, expected).pvalue > 1e-4
    assert flips.mean() == pytest.approx(0.5, abs=0.01)
