"""The stored signal is the live teacher's: same targets, same gradients; and not just any signal."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import torch

from clipkd.core.artifacts import open_artifact
from clipkd.embeddings import prepare
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins.students._vit import build_student
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.runs.training import train
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters

pytestmark = pytest.mark.usefixtures("mirrored_digits")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(digits_folder):
    """A layout with exact numbers in the store."""
    return Layout(digits_folder, dtype="float32")


def cell(vit_folder, train_type, recipe, source) -> Cell:
    return Cell(recipe, "digits", "tiny-32", str(vit_folder), train_type, 0, source)


def first_batch(cell, layout):
    """Return job, batch, signal tensor, of the first batch that a seed gives."""
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    signal = open_teacher_targets(job)
    batch = next(iter(open_batches(job, signal).epoch(32, False, torch.Generator().manual_seed(5))))
    return job, batch, signal


def gradients(job, batch, target, width) -> torch.Tensor:
    """Return the gradient of the run's loss with respect to all weights, as one vector."""
    torch.manual_seed(0)
    student = build_student(job.cell.student_spec, len(job.dataset.classes), width, job.cell.recipe_spec).eval()
    job.cell.method.loss(student, student(batch.inputs), batch.labels, target, job.cell.recipe_spec)["loss"].backward()
    return torch.cat([value.grad.flatten() for value in student.parameters() if value.grad is not None])


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
@pytest.mark.parametrize("train_type", ["teacher-KD", "vanilla"])
def test_cached_equals_live_in_targets_and_gradients(train_type, recipe, store, vit_folder):
    job, batch, live = first_batch(cell(vit_folder, train_type, recipe, "live"), store)
    _, again, cached = first_batch(cell(vit_folder, train_type, recipe, "cached"), store)
    assert torch.equal(batch.rows, again.rows)
    assert torch.equal(batch.inputs, again.inputs)
    assert 0 < batch.views.sum() < len(batch.views), "some are mirrored"
    target, stored = live(batch), cached(batch)
    assert live.teacher.forward_passes == len(batch.rows)
    assert cached.teacher is None
    torch.testing.assert_close(stored, target, rtol=1e-4, atol=2e-5)
    right = gradients(job, batch, target, live.width)
    found = gradients(job, batch, stored, live.width)
    assert (found - right).norm() < 1e-5 * right.norm()

    # Controls: a signal that is nearly right must be told apart.
    mirrored = dataclasses.replace(batch, views=1 - batch.views)
    unflipped = dataclasses.replace(batch, views=torch.zeros_like(batch.views))
    others = dataclasses.replace(batch, rows=batch.rows.roll(1))
    for wrong in (mirrored, unflipped, others):
        assert (gradients(job, batch, cached(wrong), live.width) - right).norm() > 1e-3 * right.norm()


@pytest.mark.parametrize("source", ["live", "lazy"])
@pytest.mark.parametrize("side", ["tiny-32", "base-64"])
@pytest.mark.parametrize(("named", "other"), [("corrected", "student"), ("reference", "teacher")])
def test_a_live_teacher_is_shown_what_is_stored_by_a_recipe_that_mixes_its_input(
    named, other, side, source, store, vit_folder
):
    recipe = f"{named}?teacher_normalisation={other}"

    def targets(recipe, source):
        one = dataclasses.replace(cell(vit_folder, "teacher-KD", recipe, source), student=side)
        _, batch, ask = first_batch(one, store)
        return ask(batch)

    stored = targets(recipe, "cached")
    torch.testing.assert_close(targets(recipe, source), stored, rtol=1e-4, atol=2e-5)
    # The control: the recipe that it is made from shows the teacher something else.
    assert not torch.allclose(targets(named, "cached"), stored, atol=1e-2)


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
@pytest.mark.parametrize("train_type", ["teacher-KD", "vanilla"])
def test_a_lazy_teacher_looks_once_at_each_view(train_type, recipe, store, vit_folder):
    job, batch, live = first_batch(cell(vit_folder, train_type, recipe, "live"), store)
    _, _, lazy = first_batch(cell(vit_folder, train_type, recipe, "lazy"), store)
    target = live(batch)
    torch.testing.assert_close(lazy(batch), target, rtol=1e-4, atol=2e-5)
    assert lazy.teacher.forward_passes == len(batch.rows)
    torch.testing.assert_close(lazy(batch), target, rtol=1e-4, atol=2e-5)
    assert lazy.teacher.forward_passes == len(batch.rows), "what it said is kept"

    epochs, passes = open_batches(job, live), []
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for batch in epochs.epoch(256, False, generator):
            torch.testing.assert_close(lazy(batch), live(batch), rtol=1e-3, atol=1e-4)
        passes.append(lazy.teacher.forward_passes)
    count = epochs.count
    assert passes[0] <= count + 32
    assert passes[0] < passes[1] < passes[2] <= 2 * count, "each view once, never more than live"


def test_reference_and_corrected_teachers_see_different_pixels(store, vit_folder):
    _, batch, released = first_batch(cell(vit_folder, "teacher-KD", "reference", "cached"), store)
    _, _, own = first_batch(cell(vit_folder, "teacher-KD", "corrected", "cached"), store)
    assert not torch.allclose(released(batch), own(batch), atol=1e-2)


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
@pytest.mark.parametrize("train_type", ["teacher-KD", "vanilla"])
def test_two_bytes_a_number_move_a_gradient_by_less_than_one_in_ten_thousand(
    train_type, recipe, digits_folder, vit_folder
):
    # Live and cached read one head: another, fitted on other numbers, would be another teacher.
    job, batch, live = first_batch(cell(vit_folder, train_type, recipe, "live"), Layout(digits_folder))
    right = gradients(job, batch, live(batch), live.width)
    _, _, default = first_batch(cell(vit_folder, train_type, recipe, "cached"), Layout(digits_folder))
    assert Layout().dtype == "int16"
    moved = (gradients(job, batch, default(batch), live.width) - right).norm() / right.norm()
    assert moved < 1e-4
    # The control: numbers that are a little coarser are told apart.
    coarse = (live(batch) * 2**6).round() / 2**6
    assert (gradients(job, batch, coarse, live.width) - right).norm() > 1e-4 * right.norm()


def test_a_view_set_of_64_px_students_is_the_live_one_too(store, vit_folder):
    """With `teacher_view: student-input` a 64 px student's teacher sees the image enlarged to 64 px first."""
    live64 = dataclasses.replace(cell(vit_folder, "teacher-KD", "reference", "live"), student="base-64")
    cached64 = dataclasses.replace(live64, teacher_source="cached")
    _, batch, live = first_batch(live64, store)
    _, _, cached = first_batch(cached64, store)
    assert (
        store.full_embeddings(cached64).folder
        != store.full_embeddings(dataclasses.replace(cached64, student="tiny-32")).folder
    )
    torch.testing.assert_close(cached(batch), live(batch), rtol=1e-4, atol=2e-5)


def test_prototypes_are_the_class_means_of_the_drawn_images(store, vit_folder):
    plain = cell(vit_folder, "embed-KD", "reference", "cached")
    _, batch, signal = first_batch(plain, store)
    sample = np.load(store.sample_embeddings(plain).folder / "sample.npy")
    labels = np.load(store.sample_embeddings(plain).folder / "sample-labels.npy")
    assert np.bincount(labels).tolist() == [100] * 10
    expected = np.stack([sample[labels == number].mean(axis=0) for number in range(10)])
    np.testing.assert_allclose(signal(batch).numpy(), expected, rtol=1e-5, atol=1e-6)
    unit = cell(vit_folder, "embed-KD", "corrected", "cached")
    _, _, signal = first_batch(unit, store)
    np.testing.assert_allclose(signal(batch).norm(dim=1).numpy(), np.ones(10), rtol=1e-5)


def test_the_teachers_accuracy_is_that_of_the_views_that_are_taught(digits_folder, vit_folder, tmp_path, capsys):
    layout, numbers = Layout(digits_folder), Hyperparameters(epochs=1, batch_size=256)
    vanilla = cell(vit_folder, "vanilla", "corrected", "cached")
    prepare.for_training(vanilla, layout, CPU, 256)
    job = open_job(vanilla, numbers, layout, CPU)
    train(job, RunFolder(tmp_path))
    (row,) = csv.DictReader((tmp_path / "history.csv").open())
    # By hand: the batches of the epoch that the seed gives, each image's class scores of the view shown.
    store = layout.full_embeddings(vanilla)
    weight, bias = (np.load(store.head()[0] / f"{name}.npy") for name in ("weight", "bias"))
    stored = Vectors(open_artifact(store.folder, "embeddings"), "train")[:] @ weight.T + bias
    batches = open_batches(job, open_teacher_targets(job)).epoch(256, True, torch.Generator().manual_seed(0))
    right = [
        int(stored[image, view].argmax() == label)
        for batch in batches
        for image, view, label in zip(batch.rows.tolist(), batch.views.tolist(), batch.labels.tolist(), strict=True)
    ]
    assert float(row["train_teacher_top1"]) == pytest.approx(np.mean(right), abs=1e-6)
    assert f"teacher top-1 {np.mean(right):.1%} on the views it taught" in capsys.readouterr().err
    # The control: whole, unmirrored images are easier.
    assert (stored[:, 0].argmax(axis=1) == job.dataset.train_labels).mean() > np.mean(right) + 0.05
