"""Each operation of RandAugment against timm's on PIL, and counters against numpy's Philox."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it)
from clipkd.data.counters import philox, uniforms
from clipkd.data.rand_augment import LAYERS, NUMBERS, OPERATIONS, drawn, rand_augment

from timm.data import auto_augment as timm_augment  # isort: skip

FILL = (11, 122, 233)
SIDE = 32


def photos() -> np.ndarray:
    """Return images uint8 [N, S, S, 3]: noise, smooth, dim, of one colour, of two, and grey in one channel."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (4, SIDE, SIDE, 3))
    ramp = np.add.outer(np.arange(SIDE) * 5, np.arange(SIDE) * 3)[None, :, :, None] * np.array([1.0, 0.5, 0.9])
    dim = random.integers(90, 120, (2, SIDE, SIDE, 3))
    flat, two = np.full((1, SIDE, SIDE, 3), 77), random.choice([3, 200], (1, SIDE, SIDE, 3))
    odd = noise[:1].copy()
    odd[..., 1] = 128
    return np.concatenate([noise, ramp.clip(0, 255), dim, flat, two, odd]).astype(np.uint8)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_timms(name, monkeypatch):
    images = photos()
    shown = torch.from_numpy(images).permute(0, 3, 1, 2)
    for level in (0.0, 3.3, 8.7, 9.4, 10.0):
        for sign in (1.0, -1.0):
            monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value, sign=sign: sign * value)
            settings = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
            theirs = timm_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=settings)
            if name == "PosterizeIncreasing" and level == 10:
                theirs = timm_augment.AugmentOp(name, prob=1.0, magnitude=8.0, hparams=settings)  # 1 bit, not 0
            wanted = np.stack([np.asarray(theirs(Image.fromarray(image))) for image in images])
            argument = OPERATIONS[name](np.full(len(images), level / 10), np.full(len(images), sign))
            operations = np.full((1, len(images)), list(OPERATIONS).index(name))
            found = rand_augment(shown, operations, argument[None], FILL).permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(found, wanted, f"level {level}, sign {sign}")
    assert not np.array_equal(found, images), "the strongest level changes something"


def test_the_operations_are_those_of_timm():
    assert list(OPERATIONS) == timm_augment._RAND_INCREASING_TRANSFORMS


def test_what_is_drawn_is_evenly_spread():
    operations, arguments = drawn(uniforms((5, 6), np.arange(20_000), NUMBERS))
    assert operations.shape == arguments.shape == (LAYERS, 20_000)
    assert (operations == -1).mean() == pytest.approx(0.5, abs=0.01)
    counts = np.bincount(operations[operations >= 0], minlength=len(OPERATIONS))
    assert counts / counts.sum() == pytest.approx(1 / 15, abs=0.005)
    angles = arguments[operations == list(OPERATIONS).index("Rotate")]
    assert np.abs(angles).mean() == pytest.approx(27, abs=0.2), "level 9 of 10, of 30 degrees"
    assert np.abs(angles).std() == pytest.approx(1.4, abs=0.2), "0.5 of 10, of 30 degrees, cut off at the top"
    assert (angles > 0).mean() == pytest.approx(0.5, abs=0.06)


def test_images_without_an_operation_stay_as_they_are():
    shown = torch.from_numpy(photos()).permute(0, 3, 1, 2)
    operations = np.full((LAYERS, len(shown)), -1)
    operations[0, 2] = list(OPERATIONS).index("Invert")
    found = rand_augment(shown, operations, np.zeros(operations.shape), FILL)
    assert torch.equal(found[2], 255 - shown[2])
    kept = [row for row in range(len(shown)) if row != 2]
    assert torch.equal(found[kept], shown[kept])


def test_counters_are_numpys_philox():
    key, counter = (2**63 + 12345, 987654321), [2**64 - 7, 3, 2**40, 9]
    ours = philox(np.array(counter, dtype=np.uint64)[:, None], key)[:, 0]
    before = [counter[0] - 1, *counter[1:]]  # numpy counts up before it draws
    theirs = np.random.Philox(counter=np.array(before, dtype=np.uint64), key=np.array(key, dtype=np.uint64))
    assert ours.tolist() == theirs.random_raw(4).tolist()


def test_a_rows_numbers_depend_on_key_and_row_alone():
    rows = np.array([7, 0, 123_456_789])
    found = uniforms((1, 2), rows, 10)
    assert found.shape == (10, 3)
    np.testing.assert_array_equal(uniforms((1, 2), rows[::-1], 3)[:, ::-1], found[:3])
    assert not np.isin(uniforms((1, 3), rows, 10), found).any()
    assert len(np.unique(found)) == found.size
    many = uniforms((0, 0), np.arange(10_000), 4)
    assert many.min() >= 0
    assert many.max() < 1
    assert many.mean(axis=1) == pytest.approx(0.5, abs=0.01)
