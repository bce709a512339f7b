"""A teacher in a reduced precision is another store, which the live teacher and the audit know."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipkd.cli import main
from clipkd.core.errors import DataError
from clipkd.embeddings import prepare
from clipkd.runs.failure import is_finite
from clipkd.runs.folder import RunFolder
from clipkd.runs.interruption import Interruption
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.runs.loop import Group, train_epoch
from clipkd.runs.run import Run
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import Sample
from tests.embeddings.test_audit import reseal

pytestmark = pytest.mark.usefixtures("mirrored_digits")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(digits_folder, vit_folder, tmp_path_factory):
    """Layouts of both precisions over one data folder, and the cell whose stores they hold."""
    data = tmp_path_factory.mktemp("precision") / "data"
    shutil.copytree(digits_folder / "datasets", data / "datasets")
    layouts = {name: Layout(data, "float32", Sample(4), precision=name) for name in ("float32", "bfloat16")}
    cell = Cell("corrected", "digits", "tiny-32", str(vit_folder), "teacher-KD", 0)
    for layout in layouts.values():
        prepare.for_training(cell, layout, CPU, 256)
    return layouts, cell


def signal_of(cell, layout):
    job = open_job(cell, Hyperparameters(), layout, CPU)
    signal = open_teacher_targets(job)
    batch = next(open_batches(job, signal).epoch(32, False, torch.Generator().manual_seed(0)))
    return job, signal(batch)


def test_cached_is_live_in_each_precision_and_the_two_differ(made):
    layouts, cell = made
    found = {}
    for name, layout in layouts.items():
        live = replace(cell, teacher_source="live")
        job, said = signal_of(live, layout)
        cached, stored = signal_of(cell, layout)
        found[name] = stored
        # A batch of another size may be rounded otherwise in its last bit of 8.
        close = 1e-4 if name == "float32" else 2e-2
        torch.testing.assert_close(stored, said, rtol=close, atol=close)
        assert ("precision" in job.identity["signal"]["teacher"]) == (name == "bfloat16")
        assert ("precision" in cached.identity["signal"]["embeddings"]) == (name == "bfloat16")
    moved = (found["float32"] - found["bfloat16"]).abs().max()
    assert 1e-3 < moved < 0.2, "another precision shows, and is no other teacher"
    assert layouts["float32"].full_embeddings(cell).folder != layouts["bfloat16"].full_embeddings(cell).folder


def test_the_audit_knows_a_stores_precision(made, vit_folder, tmp_path, capsys):
    layouts, cell = made
    data = shutil.copytree(layouts["float32"].data, tmp_path / "data")
    audit = ["audit", "digits", str(vit_folder), "--data", str(data), "--images", "24", "--device", "cpu"]
    assert main(audit) == 0
    assert capsys.readouterr().out.count(": right") == 2
    store = replace(layouts["bfloat16"], data=data).full_embeddings(cell)
    reseal(store.folder, "train", lambda values: values[:, ::-1].copy())
    assert main(audit) == 3
    said = capsys.readouterr().out
    assert said.count(": right") == 1
    assert f"{store.folder}: every image" in said
    # float32 numbers under bfloat16's name are within its tolerance; the other way round they are not.
    exact = replace(layouts["float32"], data=data).full_embeddings(cell).folder
    rounded = np.load(layouts["bfloat16"].full_embeddings(cell).folder / "train.npy")
    reseal(exact, "train", lambda values: rounded)
    assert main(audit) == 3
    assert capsys.readouterr().out.count("WRONG") == 2


def overflowing(vit_folder, folder):
    """A checkpoint whose weights are finite and whose activations pass float16's largest number, 65504."""
    shutil.copytree(vit_folder, folder)
    weights = load_file(folder / "model.safetensors")
    large = {name: weight * 3e3 if "dense.weight" in name else weight for name, weight in weights.items()}
    assert all(weight.isfinite().all() for weight in large.values())
    save_file(large, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_overflow_in_float16_names_the_way_out_and_that_is_one(digits_folder, vit_folder, tmp_path):
    (tmp_path / "datasets").symlink_to(digits_folder / "datasets")
    folder = overflowing(vit_folder, tmp_path / "large")
    cell = Cell("corrected", "digits", "tiny-32", str(folder), "embed-KD", 0)
    layout = Layout(tmp_path, "float32", Sample(1), precision="float16")
    with pytest.raises(DataError, match=r"larger than float16 holds \(65,504\); take bfloat16 or float32"):
        prepare.for_training(cell, layout, CPU)
    for precision in ("bfloat16", "float32"):
        prepare.for_training(cell, replace(layout, precision=precision), CPU)


def test_a_live_teacher_that_overflows_is_named_where_training_fails(digits_folder, vit_folder, tmp_path):
    (tmp_path / "datasets").symlink_to(digits_folder / "datasets")
    folder = overflowing(vit_folder, tmp_path / "large")
    cell = Cell("corrected", "digits", "tiny-32", str(folder), "teacher-KD", 0, teacher_source="live", epochs=1)
    layout = Layout(tmp_path, precision="float16")
    prepare.for_training(cell, layout, CPU)
    job = open_job(cell, Hyperparameters(batch_size=100, epochs=1), layout, CPU)
    source = open_teacher_targets(job)
    run = Run(job, RunFolder(tmp_path / "run"), source, open_batches(job, source))
    train_epoch(Group([run]), 1, Interruption())
    assert not is_finite(run)
    assert "take bfloat16 or float32" in str(run.failure)
    assert "learning-rate" not in str(run.failure)
