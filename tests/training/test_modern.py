"""Runs of recipe `modern`: resumed and side by side they are what they are alone; targets are those of their images."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipkd.core.errors import Interrupted
from clipkd.data.view_batches import ViewBatches
from clipkd.embeddings import prepare
from clipkd.runs import loop
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import Job, open_batches, open_job, open_teacher_targets
from clipkd.runs.training import train, train_together
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests.training.test_together import check_equal_to_rounding

CPU = torch.device("cpu")
NUMBERS = Hyperparameters(epochs=2, batch_size=256, learning_rate=1e-3)


def job_of(folder, teacher, recipe: str, train_type: str, numbers: Hyperparameters = NUMBERS) -> Job:
    layout = Layout(folder, dtype="float32")
    cell = Cell(recipe, "digits", "tiny-32", "none" if train_type == "supervised" else str(teacher), train_type, 0)
    prepare.for_training(cell, layout, CPU, 256)
    return open_job(cell, numbers, layout, CPU)


@pytest.mark.long
def test_a_run_at_full_strength_is_the_same_resumed_and_beside_others(digits_folder, vit_folder, tmp_path, monkeypatch):
    jobs = [job_of(digits_folder, vit_folder, "modern-full", one) for one in ("embed-KD", "supervised", "embed-KD-nd")]
    train(jobs[0], RunFolder(tmp_path / "alone"))
    update, taken = loop.update_students, iter(range(1, 100))

    def interrupted(group, step_inputs):
        if next(taken) == 6:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        update(group, step_inputs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update_students", interrupted)
        with pytest.raises(Interrupted):
            train(jobs[0], RunFolder(tmp_path / "cut"))
    train(jobs[0], RunFolder(tmp_path / "cut"))
    whole, cut = (load_file(tmp_path / name / "student.safetensors") for name in ("alone", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items()), "to the bit"
    train_together([(job, RunFolder(tmp_path / str(number))) for number, job in enumerate(jobs)])
    check_equal_to_rounding(tmp_path / "0", tmp_path / "alone")


def test_the_strength_that_auto_takes_is_said_and_kept(digits_folder, capfd):
    for epochs, strength in ((1, "flip"), (100, "crop")):
        job = job_of(digits_folder, None, "modern", "supervised", Hyperparameters(epochs=epochs))
        batches = open_batches(job, open_teacher_targets(job))
        assert job.facts()["augment"] == strength
        assert f"recipe modern: augmentation '{strength}'" in capfd.readouterr().err
        assert isinstance(batches, ViewBatches) == (strength != "flip")
        assert job.recipe.drop_path == 0
    assert job_of(digits_folder, None, "modern-full", "supervised").recipe.drop_path == 0.1


def test_stored_embeddings_are_standardised(digits_folder, vit_folder):
    job = job_of(digits_folder, vit_folder, "modern-flip", "feature-KD")
    targets = open_teacher_targets(job)
    batch = next(iter(open_batches(job, targets).epoch(64, False, torch.Generator().manual_seed(0))))
    stored = np.load(job.layout.full_embeddings(job.cell).folder / "train.npy").astype(np.float64)
    known = stored.reshape(-1, stored.shape[-1])
    wanted = (stored[batch.rows, batch.views] - known.mean(axis=0)) / known.std(axis=0)
    np.testing.assert_allclose(targets(batch).numpy(), wanted, rtol=1e-3, atol=1e-3)
    plain = open_teacher_targets(job_of(digits_folder, vit_folder, "corrected", "feature-KD"))
    np.testing.assert_array_equal(plain(batch).numpy(), stored[batch.rows, batch.views].astype(np.float32))
