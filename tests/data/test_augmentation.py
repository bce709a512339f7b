"""Views as they are drawn and made: erasing, mixup and cutmix against torchvision, timm and slow loops by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it)
from clipkd.data.augmentation import (
    Augmentation,
    erased,
    erased_boxes,
    mixed,
    mixed_targets,
    mixing,
    partners,
    stored_views,
)
from clipkd.data.batches import FlippedBatches, Turn
from clipkd.data.counters import uniforms
from clipkd.data.dataset import open_dataset
from clipkd.data.labelled import training_images
from clipkd.data.view_batches import Stored, ViewBatches
from clipkd.plugins import datasets
from clipkd.plugins.recipes import STRENGTHS

from timm.data import mixup as timm_mixup  # isort: skip
from torchvision.transforms import RandomResizedCrop  # isort: skip
from torchvision.transforms.v2 import functional  # isort: skip

SIDE, COUNT, CLASSES = 32, 40, 10
ROWS = np.arange(COUNT)


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def augmentation(strength, images: int = COUNT, side: int = SIDE, name: str = "cifar10") -> Augmentation:
    """Return that of as many images of one size, all of them trained on."""
    return Augmentation(strength, datasets.get(name), side, np.full((images, 2), side), np.arange(images))


def test_erasing_is_torchvisions(inputs):
    boxes = erased_boxes(uniforms((1, 2), ROWS, 41), SIDE)
    found = erased(inputs, boxes, [torch.Generator().manual_seed(7)], len(ROWS))
    rows = np.flatnonzero(boxes[:, 2])
    assert 0 < len(rows) < COUNT
    noise = torch.empty(len(rows), 3, SIDE, SIDE).normal_(generator=torch.Generator().manual_seed(7))
    wanted = inputs.clone()
    for row, pixels in zip(rows, noise, strict=True):
        top, left, height, width = boxes[row].tolist()
        pixels = pixels[:, top : top + height, left : left + width]
        wanted[row] = functional.erase(inputs[row], top, left, height, width, pixels)
    assert torch.equal(found, wanted)


def test_what_is_erased_is_as_often_and_as_large_as_timms():
    boxes = erased_boxes(uniforms((3, 4), np.arange(20_000), 41), SIDE)
    top, left, height, width = boxes[boxes[:, 2] > 0].T
    assert len(top) / 20_000 == pytest.approx(0.25, abs=0.01)
    area = height * width / SIDE**2
    assert area.min() > 0.01
    assert area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= SIDE).all()
    assert (left + width <= SIDE).all()


@pytest.mark.parametrize(("share", "y", "x"), [(0.7, 3, 30), (0.05, 16, 16), (0.999, 0, 0), (0.3, 31, 5)])
def test_cutmix_is_timms(share, y, x, inputs, monkeypatch):
    centre = iter((y, x))
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(centre))
    (top, bottom, left, right), left_of_it = timm_mixup.cutmix_bbox_and_lam(inputs.shape, share, correct_lam=True)
    mix = mixing(np.array([[0.9], [share], [(y + 0.5) / SIDE], [(x + 0.5) / SIDE]]), SIDE)
    wanted = inputs[:1].clone()
    wanted[:, :, top:bottom, left:right] = inputs[1:2, :, top:bottom, left:right]
    assert torch.equal(mixed(inputs[:1], inputs[1:2], mix), wanted)
    assert mix.shares[0] == pytest.approx(left_of_it)


def test_mixed_targets_are_timms():
    labels = torch.arange(COUNT) % CLASSES
    wanted = timm_mixup.mixup_target(labels, CLASSES, lam=0.3, smoothing=0.1)
    torch.testing.assert_close(mixed_targets(labels, labels.flip(0), CLASSES, 0.3), wanted)


def test_half_of_the_views_are_mixed_up_and_half_cut():
    full, labels = augmentation("full", 2000, 16), torch.arange(2000) % CLASSES
    drawn = full.draw(11, np.arange(2000))
    pixels = torch.cat([torch.ones(2000, 3, 16, 16), torch.zeros(2000, 3, 16, 16)])
    images = mixed(*pixels.split(2000), drawn.mix)
    shares = images.mean(dim=(1, 2, 3))
    targets = full.targets(labels[drawn.rows], drawn, CLASSES)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2000))
    # The share in the pixels is the share in the targets: 0.9 of it, and the smoothing's tenth; both of one class: all.
    same = labels == labels[drawn.rows[2000:]]
    expected = 0.9 * torch.where(same, 1.0, shares) + 0.1 / CLASSES
    torch.testing.assert_close(targets[torch.arange(2000), labels], expected, atol=1e-5, rtol=0)
    is_cut = ((images == 0) | (images == 1)).flatten(1).all(dim=1)
    assert is_cut.float().mean().item() == pytest.approx(0.5, abs=0.04)
    # Beta(0.8, 0.8): mean 1/2, deviation 0.310.
    assert shares[~is_cut].mean().item() == pytest.approx(0.5, abs=0.04)
    assert shares[~is_cut].std().item() == pytest.approx(0.310, abs=0.02)


def test_a_partner_is_any_other_training_image_and_never_one_that_is_held_out():
    training = np.setdiff1d(np.arange(60), np.arange(0, 60, 7))
    rows = np.repeat(training, 3000)
    found = partners(uniforms((1, 2), np.arange(len(rows)), 1)[0], rows, training)
    assert not (found == rows).any()
    counts = np.stack([np.bincount(found[rows == row], minlength=60) for row in training])
    assert (counts[:, ::7] == 0).all()
    share = counts[counts > 0] / (3000 / (len(training) - 1))
    assert share.min() > 0.5, "each as often"
    assert share.max() < 1.6, "each as often"


def test_each_stored_view_comes_once_before_any_comes_again():
    rows = np.arange(500)
    shown = np.stack([stored_views(3, epoch, rows, 4) for epoch in range(1, 13)])
    for turn in shown.reshape(3, 4, 500):
        assert (np.sort(turn, axis=0) == np.arange(4)[:, None]).all()
    assert np.bincount(shown[0], minlength=4).min() > 90, "images are in different views in one epoch"
    assert (shown[:4] != shown[4:8]).any()
    assert (shown != np.stack([stored_views(4, epoch, rows, 4) for epoch in range(1, 13)])).any()


def test_a_strength_does_what_those_before_it_do(inputs):
    pixels = (inputs * 40 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).reshape(-1)
    starts = ROWS * SIDE * SIDE * 3
    made = []
    for number, strength in enumerate(STRENGTHS):
        one = augmentation(strength)
        assert [one.does(other) for other in STRENGTHS] == [True] * (number + 1) + [False] * (3 - number)
        drawn = one.draw(5, ROWS)
        assert (drawn.operations is None, drawn.mix is None) == (number < 2, number < 3)
        assert torch.equal(one.for_student(inputs, 5, 0, ROWS, len(ROWS)), inputs) == (number < 3)
        made.append(one.make(drawn, pixels, starts[drawn.rows]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])
    boxes = augmentation("crop", 5000, 100).draw(5, np.arange(5000)).boxes
    area = boxes[:, 2] * boxes[:, 3] / 100**2
    assert area.min() > 0.79
    assert area.max() <= 1
    drawn = [RandomResizedCrop.get_params(torch.zeros(3, 100, 100), [0.8, 1], [3 / 4, 4 / 3]) for _ in range(500)]
    theirs = [height * width / 100**2 for _, _, height, width in drawn]
    assert area.mean() == pytest.approx(np.mean(theirs), abs=0.01)


def test_a_view_is_a_function_of_seed_row_and_number():
    full, rows = augmentation("full", 200), np.arange(200)
    whole = full.draw(5, rows, 3)
    some = full.draw(5, rows[[7, 150]], np.array([3, 3]))
    assert whole.rows[[7, 150, 207, 350]].tolist() == some.rows.tolist()
    for name in ("boxes", "flips"):
        assert np.array_equal(getattr(whole, name)[[7, 150, 207, 350]], getattr(some, name)), name
    assert np.array_equal(whole.operations[0][:, [7, 150, 207, 350]], some.operations[0])
    assert np.array_equal(whole.mix.squares[[7, 150]], some.mix.squares)
    for other in (full.draw(6, rows, 3), full.draw(5, rows, 4)):
        assert (other.boxes[:200] != whole.boxes[:200]).any(axis=1).mean() > 0.9
        assert (other.rows[200:] != whole.rows[200:]).mean() > 0.9
        assert 0.3 < (other.flips != whole.flips).mean() < 0.7
        assert (other.mix.shares != whole.mix.shares).mean() > 0.9
    assert not augmentation("full", name="digits").draw(5, ROWS).flips.any(), "a dataset that is not mirrored"


@pytest.mark.slow
def test_an_epoch_that_begins_later_has_the_same_batches(digits_folder):
    dataset = open_dataset(datasets.get("digits"), digits_folder / "datasets/digits")
    shown = training_images(dataset, dataset.training, dataset.training, True, 1 / 8)
    source = FlippedBatches(dataset, shown, SIDE, False, torch.device("cpu"))

    def batches(strength, stored=None):
        return ViewBatches(
            source, Augmentation(strength, dataset.spec, SIDE, source.train.sizes, dataset.training), CLASSES, stored
        )

    def epoch(of, seed=3, size=256, **more):
        return list(of.epoch(size, False, torch.Generator().manual_seed(seed), **more))

    for stored in (None, Stored(0, 3)):
        full = batches("full", stored)
        whole, rest = epoch(full, turn=Turn(1, 2)), epoch(full, start=2, turn=Turn(1, 2))
        for one, other in zip(whole[2:], rest, strict=True):
            for name in ("rows", "views", "inputs", "labels"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert not torch.equal(epoch(full, 4)[0].inputs[:100], whole[0].inputs[:100])
        # An image's view depends on its row, not on which batch it is in.
        some, shown = batches("randaugment", stored), []
        for size in (256, 100):
            found = epoch(some, size=size)
            order = torch.cat([one.rows for one in found]).argsort()
            shown.append(torch.cat([one.inputs for one in found])[order])
        assert torch.equal(*shown)
