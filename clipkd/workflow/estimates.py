"""How long jobs take, for a cluster that wants to know before they run. No torch here: the Snakefile reads this.

Measured where a run of the same kind has finished; otherwise from floating-point operations and cautious speeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from clipkd.core.artifacts import MANIFEST
from clipkd.core.errors import DataError, InputError
from clipkd.core.flops import vit_flop
from clipkd.core.typed_json import read_model
from clipkd.plugins import students
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.students import NetworkSpec, StudentSpec
from clipkd.plugins.teachers import FolderTeacher, StudentTeacher, TeacherSpec, TrainedCNN, TrainedTeacher
from clipkd.runs.record import COST, Cost
from clipkd.spec.cells import Cell
from clipkd.spec.layout import RUNS, Embeddings, Layout

SPEED = {"cuda": 2e12, "cpu": 1e10}
"""Assumed fp32 operations per second of one GPU or one CPU core: a small network, small batches."""
MARGIN, START_MINUTES = 2.0, 15
"""Times are doubled, and a start has to be paid: Python, torch, data to the device, the last evaluation."""
TEACHER_LAYERS = {768: 12, 1024: 24, 1280: 32}
LARGEST_TEACHER = (1280, 224, 14)
"""Width, image side and patch of a teacher of which nothing is known."""
LARGEST_STUDENT = 64
"""Input side of a student of which nothing is known, in pixels."""
IMAGES, MANY_IMAGES = 60_000, 1_350_000
"""Of a dataset of which nothing is known yet: CIFAR's, and ImageNet's."""
WITH_TEST = 1.2
"""Images by training images, where only these are known: CIFAR's."""


def student_forward(spec: NetworkSpec) -> float:
    """Return a student's operations on one image; those of a ViT-B/16 of its input size where it is none of ours."""
    if not isinstance(spec, StudentSpec):
        return vit_flop(768, 12, max(spec.image_size, 16), 16)
    return vit_flop(spec.width, spec.layers, spec.image_size, spec.patch_size)


def teacher_forward(spec: TeacherSpec) -> float:
    """Return a teacher's operations on one image; those of a large one where nothing tells its size.

    One that is trained here is as small as a student: a run's own student, or a ViT-B/16 of its input size.
    """
    if isinstance(spec, StudentTeacher | TrainedCNN):
        return student_forward(student_of(spec))
    if spec.hidden_size and spec.image_size and spec.patch_size:
        layers = TEACHER_LAYERS.get(spec.hidden_size, 12)
        return vit_flop(spec.hidden_size, layers, spec.image_size, spec.patch_size)
    width, size, patch = LARGEST_TEACHER
    largest = vit_flop(width, TEACHER_LAYERS[width], size, patch)
    if not isinstance(spec, FolderTeacher):
        return largest
    # A multiplication and an addition of each weight, of two bytes, at each place of a grid of 8 pixels: CNNs and
    # vision transformers have fewer.
    return min(largest, 2 * spec.weights_bytes / 2 * ((spec.image_size or size) / 8) ** 2)


def student_of(spec: StudentTeacher | TrainedCNN) -> NetworkSpec:
    """Return the student that a teacher is, or one of its size."""
    if isinstance(spec, StudentTeacher) and spec.settings:
        with suppress(InputError):  # a run's folder has a key for a timm model, not its name
            return students.get(spec.run.split("/")[2])
    return NetworkSpec(spec.name, spec.image_size or LARGEST_STUDENT)


def training_minutes(cells: Sequence[Cell], layout: Layout, device: str, at_once: int = 1) -> int:
    """Return the minutes to ask for, to train the students of a job.

    Args:
        cells: the students to train.
        layout: where data lie.
        device: `cpu`, or anything else for a GPU.
        at_once: how many of them train at a time.
    """
    seconds = [cell.epochs * epoch_seconds(cell, layout, device, len(cells)) for cell in cells]
    return to_ask(max(seconds) * math.ceil(len(cells) / at_once) if at_once > 1 else sum(seconds))


def epoch_seconds(cell: Cell, layout: Layout, device: str, students: int) -> float:
    """Return the seconds that an epoch of one of a job's students may take."""
    epoch = measured_epoch(str(Path(cell.folder).parent), kind_of(device))
    if epoch is not None:
        seconds, together = epoch
        # Fewer students in a stack may take as long as all of it.
        return seconds * max(1, together / students)
    per_image = 4 * student_forward(cell.student_spec)  # forward, twice that backward, and an evaluation
    if cell.teacher_source in {"live", "lazy"} and cell.teacher_spec is not None:
        per_image += teacher_forward(cell.teacher_spec)
    return passes_seconds(cell.dataset_spec, per_image, layout, device)


def teacher_training_minutes(
    spec: TrainedTeacher | TrainedCNN, dataset: DatasetSpec, layout: Layout, device: str
) -> int:
    """Return the minutes to ask for, to train a teacher on a dataset."""
    per_image = spec.epochs * 3 * teacher_forward(spec)  # forward, and twice that backward
    return to_ask(passes_seconds(dataset, per_image, layout, device))


def extraction_minutes(stores: Sequence[Embeddings], layout: Layout, device: str, shards: int = 1) -> int:
    """Return the minutes to ask for, to run a teacher over view sets, or over one of their shards."""
    return to_ask(sum(extraction_seconds(store, layout, device) for store in stores) / shards)


def extraction_seconds(store: Embeddings, layout: Layout, device: str) -> float:
    """Return the seconds that a teacher may take for a view set."""
    if store.teacher.reads_names or store.teacher.is_imported:
        return 0  # a few prompts for each class, or a copy
    views = store.views.replays or (2 if store.views.flips else 1)
    return passes_seconds(store.dataset, views * teacher_forward(store.teacher), layout, device)


def evaluation_minutes(cell: Cell, measures: Sequence[str], layout: Layout, device: str) -> int:
    """Return the minutes to ask for, to evaluate a cell's student."""
    passes = 80 if "corruptions" in measures else 5
    return to_ask(passes_seconds(cell.dataset_spec, passes * student_forward(cell.student_spec), layout, device))


def kind_of(device: str) -> str:
    """Return the kind of a device: what is not the CPU is a GPU."""
    return "cpu" if device == "cpu" else "cuda"


def passes_seconds(dataset: DatasetSpec, per_image: float, layout: Layout, device: str) -> float:
    """Return the seconds of a device for so many operations on each image of a dataset."""
    return images_of(dataset, layout.dataset(dataset)) * per_image / SPEED[kind_of(device)]


def to_ask(seconds: float) -> int:
    """Return minutes, with the margin."""
    return math.ceil(MARGIN * seconds / 60) + START_MINUTES


@cache
def measured_epoch(kind: str, device: str) -> tuple[float, int] | None:
    """Return the seconds of an epoch in a finished run that differs in its seed only, and of how many students those
    are one's share; None without one.
    """
    for path in (RUNS / kind).glob(f"seed*/{COST}"):
        try:
            cost = read_model(path, Cost)
        except DataError:
            continue
        if cost.device.kind == device:
            return cost.median_seconds, cost.side_by_side
    return None


def images_of(spec: DatasetSpec, folder: Path) -> int:
    """Return how many images a dataset has in its folder; before it is packed, those known of it or of a large one."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return packed_images(folder)
    if spec.counts:
        return round(spec.counts[0] * WITH_TEST)
    return IMAGES if spec.image_size is not None else MANY_IMAGES


@cache  # of what is there: an error is not remembered, as a dataset is packed while the workflow runs
def packed_images(folder: Path) -> int:
    """Return how many images a packed dataset has."""
    facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["facts"]
    return int(facts["train"] + facts["test"])
