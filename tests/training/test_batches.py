"""Batches: the same from memory and from the disk, from the beginning and from any step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clipkd.data import batches as module
from clipkd.data.batches import Turn, shuffled
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
DRAWN = ("views", "stored views", "few labels")


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
    elif kind in DRAWN:
        layout, asks, where, labels = Layout(data, views=3), "vanilla", "replayed", "all"
        if kind == "views":
            asks, where = "supervised", "cached"
        if kind == "few labels":
            labels = 10
        teacher = "none" if kind == "views" else str(vit_folder)
        cell = Cell("modern-full", "photos", "tiny-32", teacher, asks, 0, where, source=str(photos), labels=labels)
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


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += 1
        return function(*arguments, **(keywords or {}))


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


@pytest.mark.parametrize("source", [*KINDS, *DRAWN], indirect=True)
def test_batches_are_the_same_bit_for_bit_prepared_together_and_one_by_one(source, monkeypatch):
    def epoch(start, drop_last=False):
        return list(source().epoch(7, drop_last, generator(), start, Turn(0, 2)))

    alone, dropped, asked = epoch(0), epoch(0, drop_last=True), []
    real = module.BatchPlan.of_several.__func__
    monkeypatch.setattr(
        module.BatchPlan, "of_several", classmethod(lambda cls, plans: (asked.append(len(plans)), real(cls, plans))[1])
    )
    monkeypatch.setattr(module, "at_once", lambda *_: 3)
    for found, wanted in ((epoch(0), alone), (epoch(2), alone[2:]), (epoch(0, drop_last=True), dropped)):
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    has_native = alone[0].native is not None
    assert (not asked) if has_native else (max(asked) == 3), "a live teacher's images are those of a batch"


@pytest.mark.parametrize(("source", "most"), [("mirrored", 0.6), ("stored views", 0.4)], indirect=["source"])
def test_batches_prepared_together_take_fewer_operations(source, most, monkeypatch):
    def operations(several: int) -> int:
        monkeypatch.setattr(module, "at_once", lambda *_: several)
        with Operations() as seen:
            for _ in source().epoch(4, False, generator(), 0, Turn(0, 1)):
                pass
        return seen.count

    assert operations(9) < most * operations(1)


def test_a_gpu_prepares_as_many_batches_as_hold_a_million_pixels():
    small, large = (Resident(np.zeros((4, side, side, 3), np.uint8), torch.device("meta")) for side in (32, 512))
    assert [module.at_once(small, 32, size) for size in (64, 1000, 4000)] == [16, 1, 1]
    assert module.at_once(small, 64, 64) == 4, "of the larger of the image and the view"
    assert module.at_once(large, 32, 2) == 2
    assert module.at_once(Resident(np.zeros((4, 32, 32, 3), np.uint8), CPU), 32, 64) == 1


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
