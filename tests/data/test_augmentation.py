"""Erasing, mixup and cutmix against torchvision and timm; what is drawn does not depend on where an epoch begins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it)
from clipkd.data.augmentation import Augmentation, cut_mixed, erased, erased_boxes, mixed_targets
from clipkd.data.batches import FlippedBatches
from clipkd.data.counters import uniforms
from clipkd.data.dataset import open_dataset
from clipkd.plugins import datasets
from clipkd.plugins.recipes import STRENGTHS

from timm.data import mixup as timm_mixup  # isort: skip
from torchvision.transforms import RandomResizedCrop  # isort: skip
from torchvision.transforms.v2 import functional  # isort: skip

SIDE, COUNT, CLASSES = 32, 40, 10


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_erasing_is_torchvisions(inputs):
    boxes = erased_boxes(uniforms((1, 2), np.arange(COUNT), 41), SIDE)
    found = erased(inputs, boxes, torch.Generator().manual_seed(7))
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
    assert 0.01 < area.min() and area.max() < 0.36
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= SIDE).all() and (left + width <= SIDE).all()


@pytest.mark.parametrize(("share", "y", "x"), [(0.7, 3, 30), (0.05, 16, 16), (0.999, 0, 0), (0.3, 31, 5)])
def test_cutmix_is_timms(share, y, x, inputs, monkeypatch):
    centre = iter((y, x))
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(centre))
    box, left_of_it = timm_mixup.cutmix_bbox_and_lam(inputs.shape, share, correct_lam=True)
    top, bottom, left, right = box
    wanted = inputs.clone()
    wanted[:, :, top:bottom, left:right] = inputs.flip(0)[:, :, top:bottom, left:right]
    found, left_over = cut_mixed(inputs, share, y, x)
    assert torch.equal(found, wanted)
    assert left_over == pytest.approx(left_of_it)


def test_mixed_targets_are_timms():
    labels = torch.arange(COUNT) % CLASSES
    wanted = timm_mixup.mixup_target(labels, CLASSES, lam=0.3, smoothing=0.1)
    torch.testing.assert_close(mixed_targets(labels, CLASSES, 0.3), wanted)


def test_half_of_the_batches_are_mixed_up_and_half_cut():
    full, labels = Augmentation("full", CLASSES, (0, 0, 0)), torch.arange(COUNT) % CLASSES
    kinds: dict[str, list[float]] = {"mixup": [], "cutmix": []}
    for number in range(100):
        none = torch.ones(COUNT, 3, 16, 16)
        none[: COUNT // 2] = 0
        mixed, targets = full.for_student(none, labels, 11, number, np.full(COUNT, 8))  # row 8 is not erased
        share = mixed[-1].mean().item()
        kinds["cutmix" if set(mixed.unique().tolist()) <= {0.0, 1.0} else "mixup"].append(share)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(COUNT))
        # The share in the pixels is the share in the targets: 0.9 of it, and the smoothing's tenth.
        assert targets[-1, labels[-1]].item() == pytest.approx(0.9 * share + 0.1 / CLASSES, abs=1e-5)
    assert 30 < len(kinds["mixup"]) < 70
    assert np.mean(kinds["mixup"]) == pytest.approx(0.5, abs=0.12)


def test_a_strength_does_what_those_before_it_do(inputs):
    images = (inputs * 40 + 128).clamp(0, 255).to(torch.uint8)
    rows, labels = np.arange(COUNT), torch.arange(COUNT) % CLASSES
    for number, strength in enumerate(STRENGTHS):
        one = Augmentation(strength, CLASSES, (0, 0, 0))
        assert [one.does(other) for other in STRENGTHS] == [True] * (number + 1) + [False] * (3 - number)
        assert torch.equal(one.view(images, 5, rows), images) == (number < 2)
        assert torch.equal(one.for_student(inputs, labels, 5, 0, rows)[0], inputs) == (number < 3)
    boxes = Augmentation("crop", CLASSES, (0, 0, 0)).boxes(5, np.arange(5000), np.full((5000, 2), 100))
    area = boxes[:, 2] * boxes[:, 3] / 100**2
    assert 0.79 < area.min() and area.max() <= 1
    drawn = [RandomResizedCrop.get_params(torch.zeros(3, 100, 100), [0.8, 1], [3 / 4, 4 / 3]) for _ in range(500)]
    theirs = [height * width / 100**2 for _, _, height, width in drawn]
    assert area.mean() == pytest.approx(np.mean(theirs), abs=0.01)


def test_an_epoch_that_begins_later_has_the_same_batches(digits_folder):
    spec = datasets.get("digits")
    dataset = open_dataset(spec, digits_folder / "datasets/digits")
    batches = FlippedBatches(dataset, dataset.training, SIDE, False, torch.device("cpu"))
    batches.augmentation = Augmentation("full", CLASSES, (100, 100, 100))
    whole = list(batches.epoch(256, False, torch.Generator().manual_seed(3)))
    rest = list(batches.epoch(256, False, torch.Generator().manual_seed(3), start=2))
    for one, other in zip(whole[2:], rest, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels, other.labels)
    # An image's view depends on the seed and on its row, not on which batch it is in.
    batches.augmentation = Augmentation("randaugment", CLASSES, (100, 100, 100))
    shown = []
    for size in (256, 100):
        found = list(batches.epoch(size, False, torch.Generator().manual_seed(3)))
        order = torch.cat([one.rows for one in found]).argsort()
        shown.append(torch.cat([one.inputs for one in found])[order])
    assert torch.equal(*shown)
    other = torch.cat([one.inputs for one in batches.epoch(256, False, torch.Generator().manual_seed(4))])
    assert not torch.equal(other[:100], torch.cat([one.inputs for one in whole])[:100])
