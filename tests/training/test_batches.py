"""Batches: the same from memory and from the disk, from the beginning and from any step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from clipkd.data.batches import shuffled
from clipkd.data.labelled import TrainingImages
from clipkd.data.residency import FRACTION, Resident, Streamed
from clipkd.embeddings import prepare
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests.photos import save_photos

CPU = torch.device("cpu")
KINDS = ("mirrored", "cropped", "cropped, native", "replayed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("images") / "photos")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(params=KINDS)
def source(request, photos, data, digits_folder, vit_folder):
    """A function that opens the batches of one kind of run."""
    kind = request.param
    if kind == "mirrored":
        cell, layout = Cell("corrected", "digits", "tiny-32", "none", "supervised", 0), Layout(digits_folder)
    else:
        layout = Layout(data, views=2)
        asks = {"cropped": "supervised", "cropped, native": "teacher-KD", "replayed": "teacher-KD"}[kind]
        where = {"cropped": "cached", "cropped, native": "live", "replayed": "replayed"}[kind]
        teacher = "none" if kind == "cropped" else str(vit_folder)
        cell = Cell("corrected", "photos", "tiny-32", teacher, asks, 0, where, source=str(photos))
    prepare.for_training(cell, layout, CPU, 64)

    def open_source():
        job = open_job(cell, Hyperparameters(), layout, CPU)
        return open_batches(job, open_teacher_targets(job))

    return open_source


def assert_equal(one, other) -> None:
    for name in ("rows", "views", "labels", "inputs"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (one.native is None) == (other.native is None)
    assert one.native is None or torch.equal(one.native, other.native)


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batches_are_the_same_bit_for_bit_from_memory_and_disk(source, monkeypatch):
    resident = source()
    monkeypatch.setenv(FRACTION, "0")
    streamed = source()
    kinds = [type(value) for batches in (resident, streamed) for value in vars(batches).values()]
    nested = [type(held) for batches in (resident, streamed) for held in getattr(batches, "images", {}).values()]
    assert {Resident, Streamed} <= {*kinds, *nested}
    pairs = zip(resident.epoch(16, False, generator()), streamed.epoch(16, False, generator()), strict=True)
    count = 0
    for one, other in pairs:
        assert_equal(one, other)
        count += len(one.rows)
    assert count == resident.count
    for split, rows in (("test", None), ("train", open_validation(resident))):
        for one, other in zip(resident.evaluation(split, rows, 5), streamed.evaluation(split, rows, 5), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    # The control: another seed shows other things.
    assert not torch.equal(
        next(resident.epoch(16, False, generator())).inputs, next(resident.epoch(16, False, generator(4))).inputs
    )


def open_validation(batches) -> np.ndarray:
    """Return rows that are held out: those that are not trained on."""
    return np.setdiff1d(np.arange(len(batches.labels["train"])), batches.shown.labelled)


@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_can_be_taken_up_at_any_step(drop_last, source):
    batches = source()
    whole = generator()
    epoch = list(batches.epoch(7, drop_last, whole))
    assert len(epoch) == (batches.count // 7 if drop_last else -(-batches.count // 7))
    for start in (0, 1, len(epoch) - 1, len(epoch)):
        part = generator()
        found = list(batches.epoch(7, drop_last, part, start=start))
        for one, other in zip(found, epoch[start:], strict=True):
            assert_equal(one, other)
        if found:
            assert torch.equal(part.get_state(), whole.get_state()), "the next epoch is the same too"


def test_no_two_batches_and_epochs_show_the_same_crops(source):
    batches, drawn = source(), generator()
    first, second = list(batches.epoch(16, False, drawn)), list(batches.epoch(16, False, drawn))
    rows = sorted(itertools.chain.from_iterable(batch.rows.tolist() for batch in first))
    assert rows == batches.shown.labelled.tolist()
    assert not torch.equal(first[0].rows, second[0].rows)
    assert not torch.equal(first[0].inputs, first[1].inputs)


def test_half_of_the_images_are_mirrored_each_by_chance():
    drawn, rows = torch.Generator().manual_seed(0), np.arange(4000)
    shown = TrainingImages(np.zeros(4000, np.int64), rows, rows[:0], 4000)
    first, second = (torch.cat([plan.flips for plan in shuffled(shown, 300, False, drawn, 0, True)]) for _ in range(2))
    for share in (first, second, first ^ second):
        assert share.double().mean().item() == pytest.approx(0.5, abs=0.032)  # four standard deviations
