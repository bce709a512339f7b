"""What only a GPU can show (`make test-gpu`): graphs, stacks, no waiting. Skipped where there is none."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from clipkd.data import batches
from clipkd.embeddings import prepare
from clipkd.runs import cuda_graph, loop, vector_stores
from clipkd.runs.epochs import close_epochs
from clipkd.runs.folder import RunFolder
from clipkd.runs.interruption import Interruption
from clipkd.runs.job import Job, open_batches, open_job, open_teacher_targets
from clipkd.runs.loop import Group, train_epoch
from clipkd.runs.record import Metrics
from clipkd.runs.run import Run
from clipkd.runs.stack import OneStudent
from clipkd.runs.training import train, train_together
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here"),
]
CUDA = torch.device("cuda")
NUMBERS = Hyperparameters(epochs=2, batch_size=64, learning_rate=1e-3)
TYPES = ("embed-KD", "embed-KD", "teacher-KD", "vanilla", "vanilla", "supervised", "embed-KD-onehot")
"""Some twice: the losses of such students are computed at once."""


@pytest.fixture(scope="module", params=["fp32", "tf32", "bf16"])
def jobs(request, digits_folder, vit_folder) -> list[Job]:
    layout = Layout(digits_folder)
    cells = [
        Cell("reference", "digits", "tiny-32", "none" if name == "supervised" else str(vit_folder), name, seed)
        for seed, name in enumerate(TYPES)
    ]
    for cell in cells:
        prepare.for_training(cell, layout, CUDA)
    numbers = NUMBERS.model_copy(update={"precision": request.param})
    return [open_job(cell, numbers, layout, CUDA) for cell in cells]


def losses(folder: Path) -> list[float]:
    return [float(row["train_loss"]) for row in csv.DictReader((folder / "history.csv").open())]


def run_of(job: Job, folder: Path) -> Run:
    source = open_teacher_targets(job)
    return Run(job, RunFolder(folder), source, open_batches(job, source))


@pytest.fixture(scope="module")
def captures() -> Iterator[list[int]]:
    """Counts the graphs that are captured."""
    seen: list[int] = []
    real = cuda_graph.SideStream.captured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_graph.SideStream, "captured", lambda self, work: (seen.append(1), real(self, work))[1])
        yield seen


def test_a_graph_trains_what_its_kernels_train(jobs, captures, tmp_path, monkeypatch) -> None:
    before = len(captures)
    train(jobs[0], RunFolder(tmp_path / "graph"))
    assert len(captures) == before + 1
    monkeypatch.setenv(cuda_graph.VARIABLE, "never")
    train(jobs[0], RunFolder(tmp_path / "kernels"))
    assert len(captures) == before + 1
    assert losses(tmp_path / "graph") == pytest.approx(losses(tmp_path / "kernels"), rel=1e-4)
    train(jobs[0], RunFolder(tmp_path / "again"))
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "kernels"), rel=1e-5)


def test_a_stack_trains_each_student_as_it_would_alone(jobs, tmp_path) -> None:
    names = [f"{job.cell.train_type}-{job.cell.seed}" for job in jobs]
    pairs = [(job, RunFolder(tmp_path / name)) for job, name in zip(jobs, names, strict=True)]
    outcomes = train_together(pairs)
    assert all(isinstance(outcome, Metrics) for outcome in outcomes), outcomes
    for job, name in zip(jobs, names, strict=True):
        train(job, RunFolder(tmp_path / "alone" / name))
        alone = losses(tmp_path / "alone" / name)
        rounding = 1e-3 if job.numbers.precision == "fp32" else 2e-2
        assert losses(tmp_path / name) == pytest.approx(alone, rel=rounding), name


@pytest.mark.parametrize("several", [1, 4])
def test_the_host_waits_once_a_run_in_an_epoch(several, jobs, tmp_path) -> None:
    """torch itself tells of each wait; the guard is read at the end, and nothing else within."""
    runs = [run_of(job, tmp_path / str(number)) for number, job in enumerate(jobs[:several])]
    group = Group(runs)
    assert group.graph is not None
    steps = runs[0].steps_per_epoch
    train_epoch(group, steps, Interruption())  # warms up and captures
    for run in runs:
        run.epoch.step = 0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train_epoch(group, steps, Interruption())
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(warning.message) for warning in told if "called a synchronizing" in str(warning.message)]
    assert steps > 20
    assert 1 <= len(waits) <= several, waits


def test_stored_vectors_in_its_memory_are_those_of_the_disk(jobs, tmp_path, monkeypatch) -> None:
    job = jobs[TYPES.index("teacher-KD")]
    batch = next(iter(run_of(job, tmp_path).rest_of_epoch()))
    in_memory = open_teacher_targets(job)
    monkeypatch.setattr(vector_stores, "SHARE", 0)
    monkeypatch.setattr(vector_stores, "ON_DEVICE", {})
    on_disk = open_teacher_targets(job)
    assert (type(in_memory.vectors), type(on_disk.vectors)) == (vector_stores.OnDevice, vector_stores.OnDisk)
    assert torch.equal(in_memory(batch), on_disk(batch))


@pytest.mark.parametrize("recipe", ["corrected", "modern-crop", "modern-full"])
def test_batches_prepared_together_are_those_prepared_one_by_one(recipe, digits_folder, tmp_path, monkeypatch) -> None:
    cell, layout = Cell(recipe, "digits", "tiny-32", "none", "supervised", 0), Layout(digits_folder)
    prepare.for_training(cell, layout, CUDA)
    job = open_job(cell, NUMBERS, layout, CUDA)
    together = list(run_of(job, tmp_path / "together").rest_of_epoch())
    monkeypatch.setattr(batches, "PREPARED", 0)
    for one, other in zip(together, run_of(job, tmp_path / "alone").rest_of_epoch(), strict=True):
        for name in ("rows", "views", "labels", "inputs"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_run_that_was_cut_off_on_a_gpu_goes_on(jobs, tmp_path, monkeypatch) -> None:
    train(jobs[0], RunFolder(tmp_path / "whole"))
    monkeypatch.setattr("clipkd.runs.checkpointing.SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("clipkd.runs.checkpointing.SHARE_FOR_SAVES", float("inf"))

    def cut(runs: list[Run], students: OneStudent) -> None:
        if runs[0].epoch.number == 2:
            raise KeyboardInterrupt
        close_epochs(runs, students)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "close_epochs", cut)
        with pytest.raises(KeyboardInterrupt):
            train(jobs[0], RunFolder(tmp_path / "cut"))
    train(jobs[0], RunFolder(tmp_path / "cut"))
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
