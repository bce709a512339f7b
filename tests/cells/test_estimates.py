"""The minutes that jobs ask for."""

from __future__ import annotations

import json
import shutil

import pytest

from clipkd.core.flops import vit_flop
from clipkd.plugins import datasets, students, teachers
from clipkd.plugins.teachers import FolderTeacher, StudentTeacher
from clipkd.spec import cells
from clipkd.spec.layout import Layout
from clipkd.workflow import estimates
from tests.synthetic import cost_of

CELL = cells.Cell("corrected", "cifar100", "base-32", "none", "supervised", 0, epochs=200)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """No results, and nothing remembered."""
    monkeypatch.chdir(tmp_path)
    for cached in (estimates.measured_epoch, estimates.packed_images):
        cached.cache_clear()
    yield
    for cached in (estimates.measured_epoch, estimates.packed_images):
        cached.cache_clear()


def test_operations_of_the_paper_s_networks():
    """0.64 GFLOP for the base student, 123 for ViT-L/16 (README.md): known from their definitions."""
    assert estimates.student_forward(students.get("base-32")) == pytest.approx(0.64e9, rel=0.01)
    assert vit_flop(1024, 24, 224, 16) == pytest.approx(123.1e9, rel=0.001)


def test_a_training_asks_for_epochs_times_images_times_operations(tmp_path):
    asked = estimates.training_minutes([CELL], Layout(), "cuda")
    seconds = 200 * 60_000 * 4 * 0.64e9 / 2e12
    assert asked == pytest.approx(2 * seconds / 60 + 15, rel=0.01)
    assert estimates.training_minutes([CELL], Layout(), "cpu") > 50 * asked
    two = estimates.training_minutes([CELL, CELL], Layout(), "cuda")
    assert two - 15 == pytest.approx(2 * (asked - 15), abs=1)


def test_a_teacher_asks_for_its_epochs_of_the_images_that_it_is_trained_on():
    cnn = teachers.get("trained:resnet18d@64?on=cifar10&epochs=40")
    asked = estimates.teacher_training_minutes(cnn, CELL.dataset_spec, Layout(), "cuda")
    assert asked == pytest.approx(2 * 40 * 60_000 * 3 * vit_flop(768, 12, 64, 16) / 2e12 / 60 + 15, abs=1)


def test_once_a_seed_has_finished_its_time_is_taken(tmp_path):
    run = tmp_path / "results/runs/corrected/cifar100/base-32/none/supervised/seed7"
    run.mkdir(parents=True)
    cost = cost_of(CELL) | {"seconds_per_epoch": [40.0, 30.0, 20.0]}
    cost["device"]["kind"] = "cuda"
    (run / "cost.json").write_text(json.dumps(cost))
    assert estimates.training_minutes([CELL], Layout(), "cuda") == 2 * 200 * 30 // 60 + 15
    # A CPU's time says nothing of a GPU's.
    estimates.measured_epoch.cache_clear()
    (run / "cost.json").write_text(json.dumps(cost | {"device": cost["device"] | {"kind": "cpu"}}))
    assert estimates.training_minutes([CELL], Layout(), "cuda") != 2 * 200 * 30 // 60 + 15


def test_the_time_of_one_of_a_stack_is_not_that_of_one_alone(tmp_path):
    """A stack of eight takes 8 x 30 s an epoch; one student of it that is left may take as long."""
    run = tmp_path / "results/runs/corrected/cifar100/base-32/none/supervised/seed7"
    run.mkdir(parents=True)
    cost = cost_of(CELL) | {"seconds_per_epoch": [30.0] * 3, "side_by_side": 8}
    cost["device"]["kind"] = "cuda"
    (run / "cost.json").write_text(json.dumps(cost))
    for count in (1, 2, 8):
        assert estimates.training_minutes([CELL] * count, Layout(), "cuda") == 2 * 200 * 240 // 60 + 15
    assert estimates.training_minutes([CELL] * 16, Layout(), "cuda") == 2 * 200 * 480 // 60 + 15


def test_the_images_that_are_there_are_counted_once_they_are(digits_folder, tmp_path):
    digits, layout = datasets.get("digits"), Layout(tmp_path)
    photos = datasets.get("photos", str(tmp_path))
    before = [estimates.images_of(spec, layout.dataset(spec)) for spec in (digits, CELL.dataset_spec, photos)]
    assert before == [1730, 60_000, 1_350_000], "a fifth more than the known training images; ImageNet's"
    shutil.copytree(digits_folder / "datasets/digits", layout.dataset(digits))
    assert estimates.images_of(digits, layout.dataset(digits)) == 1797, "packed since it was asked first"


@pytest.mark.parametrize(
    ("parameters", "operations"),
    [(25.6e6, 8.2e9), (4.65e6, 0.8e9), (86.6e6, 35.1e9), (5.7e6, 2.5e9)],
    ids=["resnet50", "efficientnet_lite0", "vit-b16", "vit-tiny-16"],
)
def test_a_teacher_in_a_folder_asks_for_what_its_weights_can_take(parameters, operations):
    """Never for less than such a model takes at 224 pixels (as published), nor for more than 20 times as much."""
    folder = FolderTeacher("one", "one", folder="one", weights_bytes=4 * int(parameters))
    asked = estimates.teacher_forward(folder)
    assert operations < asked < 20 * operations


def test_an_extraction_is_divided_by_its_shards():
    cell = cells.Cell("corrected", "cifar100", "base-32", "vit-l16-in21k", "teacher-KD", 0)
    store = Layout().full_embeddings(cell)
    whole, part = (estimates.extraction_minutes([store], Layout(), "cuda", shards) for shards in (1, 10))
    assert whole == pytest.approx(2 * 2 * 60_000 * 123.1e9 / 2e12 / 60 + 15, rel=0.01)
    assert part - 15 == pytest.approx((whole - 15) / 10, abs=1)
    both = estimates.extraction_minutes([store, store], Layout(), "cuda")
    assert both - 15 == pytest.approx(2 * (whole - 15), abs=1)


def test_teachers_that_are_trained_here_ask_for_a_students_time():
    run = StudentTeacher("one", "one", run="corrected/digits/base-32/none/supervised/seed0", settings="0" * 16)
    assert estimates.teacher_forward(run) == estimates.student_forward(students.get("base-32"))
    cnn, small = (
        teachers.get("trained:resnet18@32?on=digits"),
        estimates.student_forward(students.get("timm:resnet18@32")),
    )
    assert estimates.teacher_forward(cnn) == small
    unknown = StudentTeacher("two", "two", folder="mine")
    assert small < estimates.teacher_forward(unknown) < estimates.teacher_forward(teachers.get("vit-b16-in21k"))
