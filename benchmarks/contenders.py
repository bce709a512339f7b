"""The contenders: an epoch of clipkd and an epoch of the peer, on the same images, teacher and batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.material import CLASSES, Material
from benchmarks.peer import Images, LibraryStudent, Peer, PlainStudent
from benchmarks.rounds import Contender
from clipkd.embeddings import prepare
from clipkd.plugins import datasets, students
from clipkd.runs.folder import RunFolder
from clipkd.runs.interruption import Interruption
from clipkd.runs.job import Job, open_batches, open_job, open_teacher_targets
from clipkd.runs.loop import Group, train_epoch
from clipkd.runs.run import Run
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters, StudentPrecision

RECIPE = "reference"
"""The released code's mathematics: what the peer computes too."""


def layout_of(material: Material) -> Layout:
    """Return the layout of a benchmark's artefacts; few images make a prototype: time does not depend on it."""
    from clipkd.spec.views import Sample

    return Layout(material.folder / "data", sample=Sample(per_class=2))


def clipkd_epoch(
    material: Material,
    dataset: str,
    student: str,
    train_type: str,
    source: str,
    batch_size: int,
    device: torch.device,
    precision: StudentPrecision = "fp32",
) -> Contender:
    """Return clipkd's epoch of a train type, its teacher's signal `cached` or `live`; makes what it reads."""
    layout = layout_of(material)
    cell = Cell(RECIPE, dataset, student, material.teacher_folder, train_type, 0, source)  # type: ignore[arg-type]
    prepare.for_training(cell, layout, device, batch_size)
    numbers = Hyperparameters(batch_size=batch_size, precision=precision)
    run = run_of(open_job(cell, numbers, layout, device), material.folder / f"runs/{train_type}-{source}")
    group = Group([run])
    return lambda: epoch(group)


def group_epoch(
    material: Material,
    dataset: str,
    student: str,
    train_type: str,
    batch_size: int,
    device: torch.device,
    size: int,
    precision: StudentPrecision,
) -> Contender:
    """Return clipkd's epoch of `size` seeds of a train type, computed at once."""
    layout = layout_of(material)
    numbers = Hyperparameters(batch_size=batch_size, precision=precision)
    runs: list[Run] = []
    for seed in range(size):
        cell = Cell(RECIPE, dataset, student, material.teacher_folder, train_type, seed)
        prepare.for_training(cell, layout, device, batch_size)
        folder = material.folder / f"runs/{precision}-{size}-{seed}"
        runs.append(run_of(open_job(cell, numbers, layout, device), folder, runs[0] if runs else None))
    group = Group(runs)
    return lambda: epoch(group)


def run_of(job: Job, folder: Path, beside: Run | None = None) -> Run:
    """Return a run; beside another one it sees the same images in memory."""
    source = open_teacher_targets(job)
    return Run(job, RunFolder(folder), source, beside.batches if beside else open_batches(job, source))


def epoch(group: Group) -> None:
    """Take an epoch's steps, the first epoch's over and over."""
    for run in group.runs:
        run.epoch.step = 0
    train_epoch(group, group.runs[0].steps_per_epoch, Interruption())


def peer_epoch(
    material: Material,
    dataset: str,
    student: str,
    train_type: str,
    batch_size: int,
    device: torch.device,
    library: str | None = None,
) -> Contender:
    """Return the peer's epoch of a train type; with the student of a library, `timm` or `transformers`, its own."""
    from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it: it must work first)

    import transformers  # isort: skip

    opened = prepare.dataset(datasets.get(dataset), layout_of(material), None)
    width = transformers.ViTConfig.from_pretrained(material.teacher_folder).hidden_size
    teacher = None
    if train_type != "embed-KD":
        # As the library has it: clipkd's own loading makes a teacher's pass faster (clipkd/embeddings/acceleration.py).
        teacher = transformers.ViTModel.from_pretrained(material.teacher_folder, add_pooling_layer=False)
        teacher = teacher.eval().to(device)
    torch.manual_seed(0)
    images = Images(np.asarray(opened.images("train")), opened.train_labels)
    shape = students.get(student), CLASSES, width
    peer = Peer(
        images,
        LibraryStudent(library, *shape) if library else PlainStudent(*shape),
        train_type,
        teacher,
        torch.randn(CLASSES, width),
        torch.nn.Linear(width, CLASSES),
        batch_size,
        device,
    )
    return peer.epoch
