"""A grid of students on all cores: clipkd's processes against the peer as it comes, one student after another."""

from __future__ import annotations

import argparse
import itertools
import statistics
from typing import Any

import torch

from benchmarks.contenders import RECIPE, layout_of, peer_epoch
from benchmarks.material import Material, add_dataset
from benchmarks.rounds import Contender, interleaved
from clipkd.core import environment
from clipkd.core.errors import ClipkdError
from clipkd.embeddings import prepare
from clipkd.runs import workers
from clipkd.runs.assignment import Assignment
from clipkd.spec.cells import Cell
from clipkd.spec.settings import Hyperparameters

STUDENTS, ROUNDS = 4, 3


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the wall time of an epoch of several students, seeds of embed-KD, and the ratio."""
    if device.type != "cpu":
        return {"not_measured": "a grid on a GPU is a stack: see `stack`"}
    cores = environment.cores()
    dataset = material.dataset(options.steps * options.batch_size)
    alone = [
        peer_epoch(material, dataset, options.student, "embed-KD", options.batch_size, device) for _ in range(STUDENTS)
    ]
    contenders = {
        "clipkd, a process per core": processes(material, dataset, options, cores),
        "peer, one after another": lambda: one_after_another(alone, cores),
    }
    times = interleaved(contenders, min(options.rounds, ROUNDS))
    ours, theirs = (times[name].wall for name in contenders)
    return {
        "students": STUDENTS,
        "steps": options.steps,
        "cores": cores,
        "wall_s": {name: round(statistics.median(taken.wall), 3) for name, taken in times.items()},
        "wall_ratio": round(statistics.median(other / mine for other, mine in zip(theirs, ours, strict=True)), 3),
    }


def one_after_another(epochs: list[Contender], threads: int) -> None:
    """Train with torch's own choice of threads: all cores."""
    torch.set_num_threads(threads)
    for epoch in epochs:
        epoch()
    torch.set_num_threads(1)


def processes(material: Material, dataset: str, options: argparse.Namespace, cores: int) -> Contender:
    """Return whole runs of one epoch: weights, images, training, evaluation, results written."""
    layout, rounds = layout_of(material), itertools.count()
    cells = [Cell(RECIPE, dataset, options.student, material.teacher_folder, "embed-KD", k) for k in range(STUDENTS)]
    prepare.for_training(cells[0], layout, torch.device("cpu"), options.batch_size)
    numbers = Hyperparameters(epochs=1, batch_size=options.batch_size, precision="fp32")

    def grid() -> None:
        folder = material.folder / "grid" / str(next(rounds))
        with workers.Pool() as pool:
            tasks = [
                (cell.folder, train_shaped, (Assignment(cell, numbers, layout, "cpu", folder / cell.folder),))
                for cell in cells
            ]
            pool.run(tasks, cores)
        assert not pool.failures, pool.failures

    return grid


def train_shaped(assignment: Assignment) -> dict[str, ClipkdError]:
    """Train a student in a process that does not know the benchmark's dataset yet."""
    train = int(assignment.cell.dataset.rpartition("-")[2])
    add_dataset(train)
    return workers.train_one(assignment, threads=1)
