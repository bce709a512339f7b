"""Several processes that train one student are one process with the same batches, to rounding."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipkd.core.errors import InputError
from clipkd.embeddings import prepare
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.runs.ranks import Ranks, join
from clipkd.runs.run import Run
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests import warm
from tests.training.ranks_worker import correct, gradients

ROOT = Path(__file__).parents[2]
CASES = [(kind, recipe) for kind in ("vanilla", "teacher-KD", "embed-KD") for recipe in ("reference", "corrected")]


def torchrun(count: int, *arguments: object, python: str | Path | None = None) -> subprocess.Popen:
    python = python or warm.python()
    command = [python, "-m", "torch.distributed.run", "--nproc-per-node", count, "--master-port", free_port()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON_EXEC": str(python)}
    command = [str(word) for word in [*command, *arguments]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def free_port() -> int:
    import socket

    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def finished(process: subprocess.Popen) -> str:
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def of_three(tmp_path_factory) -> list[dict]:
    """Gradients of a batch of 7, which three ranks can't divide evenly: what each rank has in the end."""
    folder = tmp_path_factory.mktemp("ranks")
    finished(torchrun(3, ROOT / "tests/training/ranks_worker.py", folder))
    correct = [np.load(folder / f"{rank}.npy") for rank in range(3)]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) | {"correct": correct[rank]} for rank in range(3)]


def distance(found: dict, wanted: dict) -> float:
    assert found.keys() == wanted.keys()
    return max(((found[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in wanted)


@pytest.mark.parametrize(("train_type", "recipe"), CASES)
def test_three_ranks_have_the_gradients_of_one_process(train_type, recipe, of_three):
    alone = gradients(train_type, recipe, Ranks())
    for rank in of_three:
        assert distance(rank[f"{train_type}/{recipe}/True"], alone) < 1e-12


def test_three_ranks_find_the_same_images_correct_as_one_process(of_three):
    alone = correct(Ranks())
    assert len(alone) == 29
    assert 0 < alone.sum() < 29
    for rank in of_three:
        assert (rank["correct"] == alone).all()


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
def test_control_with_negatives_of_their_own_the_gradients_differ(recipe, of_three):
    """teacher-KD compares the images of a batch: a third of the batch has other negatives."""
    alone = gradients("teacher-KD", recipe, Ranks())
    assert distance(of_three[0][f"teacher-KD/{recipe}/False"], alone) > 1e-2


def flags(data: Path, folder: Path, epochs: int = 2) -> list:
    cell = ["--dataset-name", "digits", "--student", "tiny-32", "--train-type", "teacher-KD"]
    numbers = ["--epochs", epochs, "--learning-rate", 1e-3, "--threads", 1, "--device", "cpu"]
    return ["-m", "clipkd", "train", "--data", data, "--log-folder", folder, *cell, *numbers]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["cached", pytest.param("live", marks=pytest.mark.long)])
def test_two_ranks_train_one_student(source, digits_folder, vit_folder, tmp_path):
    teacher = ["--teacher-model", vit_folder, "--teacher-source", source]
    said = finished(torchrun(2, *flags(digits_folder, tmp_path), *teacher))
    assert said.count("test top-1") == 1, "one rank speaks"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["identity"]["training"]["ranks"] == 2
    assert metrics["last"]["test"]["top1"] > 0.2
    cost = json.loads((tmp_path / "cost.json").read_text())
    images = cost["images_per_epoch"] * 2
    assert cost["teacher"]["forward_passes"] == (images if source == "live" else 0), "each image once, in one rank"


@pytest.mark.parametrize(
    ("recipe", "size", "ranks", "advice"),
    [
        ("reference", 131, 2, "take --batch-size 130, or start fewer processes"),  # 1,442 images: one is left
        ("reference", 131, 1, ""),
        ("reference", 130, 2, ""),
        ("corrected", 97, 2, ""),  # 1,262 images: the last batch, of one, is left out
        ("corrected", 2, 3, "take --batch-size 3, or start fewer processes"),
    ],
)
def test_a_batch_with_no_image_for_a_rank_is_refused_before_the_first_step(
    recipe, size, ranks, advice, digits_folder, tmp_path
):
    cell, cpu = Cell(recipe, "digits", "tiny-32", "none", "supervised", 0, epochs=1), torch.device("cpu")
    job = open_job(cell, Hyperparameters(epochs=1, batch_size=size), Layout(digits_folder), cpu)
    source = open_teacher_targets(job)
    with pytest.raises(InputError, match=advice) if advice else contextlib.nullcontext():
        Run(job, RunFolder(tmp_path), source, open_batches(job, source), Ranks(0, ranks))


def test_prototypes_that_are_drawn_in_each_step_are_refused_with_several_ranks(digits_folder, vit_folder, tmp_path):
    cell, cpu = Cell("corrected", "digits", "tiny-32", str(vit_folder), "embed-KD", 0, epochs=1), torch.device("cpu")
    layout = Layout(digits_folder, form="gaussian")
    prepare.for_training(cell, layout, cpu)
    job = open_job(cell, Hyperparameters(epochs=1), layout, cpu)
    source = open_teacher_targets(job)
    Run(job, RunFolder(tmp_path), source, open_batches(job, source))
    with pytest.raises(InputError, match=r"drawn in each step.* take another --prototype-form"):
        Run(job, RunFolder(tmp_path), source, open_batches(job, source), Ranks(0, 2))


@pytest.mark.long
def test_a_rank_that_dies_is_named(digits_folder, tmp_path):
    """torchrun itself says so in a page of its own; the others stop with one line, and the run resumes."""
    words = [*flags(digits_folder, tmp_path, 200), "--train-type", "supervised"]
    process = torchrun(2, *words, python=sys.executable)  # its ranks are its own children, not a server's
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            break
    second = rank_of(process.pid, 1)
    os.kill(second, signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert f"clipkd train: error: rank 1 (process {second} on " in said
    assert "ended in the middle of the training" in said


def rank_of(torchrun: int, rank: int) -> int:
    """Return the process of a rank."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == torchrun and f"\0RANK={rank}\0" in (path / "environ").read_text():
                return int(path.name)
    raise AssertionError(f"no rank {rank}")


@pytest.mark.parametrize(
    ("variable", "text", "named"),
    [
        ("WORLD_SIZE", "two", "WORLD_SIZE is 'two'"),
        ("WORLD_SIZE", "-1", "WORLD_SIZE is '-1'"),
        ("WORLD_SIZE", "", "WORLD_SIZE is ''"),
        ("RANK", "2", "RANK is '2', but it must be a number from 0 to 1: start with torchrun"),
        ("RANK", "x", "RANK is 'x'"),
        ("LOCAL_RANK", "7", "--nproc-per-node"),
        ("MASTER_PORT", "http", "MASTER_PORT is 'http'"),
        ("MASTER_ADDR", None, "WORLD_SIZE is 2, but MASTER_ADDR are missing"),
    ],
)
def test_variables_that_make_no_sense_are_bad_input(variable, text, named, monkeypatch):
    """Some would else wait for ranks that never come."""
    sound = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in (sound | {variable: text}).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: pytest.fail("it waits for the others"))
    with pytest.raises(InputError, match=re.escape(named)):
        join(torch.device("cpu"))


@pytest.mark.long
def test_ranks_that_are_stopped_go_on_with_the_same_student(digits_folder, vit_folder, tmp_path):
    teacher = ["--teacher-model", vit_folder]
    finished(torchrun(2, *flags(digits_folder, tmp_path / "whole", 8), *teacher))
    process = torchrun(2, *flags(digits_folder, tmp_path / "cut", 8), *teacher)
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    deadline = time.monotonic() + 30
    while not list((tmp_path / "cut/.resume").glob("0*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "stopped by SIGTERM" in said
    assert not (tmp_path / "cut/metrics.json").exists()
    assert "resuming in epoch" in finished(torchrun(2, *flags(digits_folder, tmp_path / "cut", 8), *teacher))
    cut, whole = (load_file(tmp_path / name / "student.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
