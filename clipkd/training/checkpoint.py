"""Reading a saved student back, the released code's checkpoints included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipkd.data.dataset import Dataset
from clipkd.data.preprocessing import Preprocessing
from clipkd.errors import DataError
from clipkd.recipes import Recipe
from clipkd.runs import State, load_student
from clipkd.students import StudentSpec
from clipkd.training.evaluation import Score, evaluate
from clipkd.training.loop import EVALUATION_BATCH
from clipkd.training.network import Student


def student_from(state: State, spec: StudentSpec, path: Path) -> Student:
    """Return the network that a state dict fits; its classes and projection are read off the weights.

    Raises:
        DataError: a weight is missing, unexpected or mis-shaped; the message lists them.
    """
    classifier = state.get("classifier.weight")
    if classifier is None:
        raise DataError(f"{path} holds no student: it lacks 'classifier.weight'")
    projection = state.get("cluster_projection.weight")
    options: dict = {"learnable_scale": "logit_scale" in state}
    if projection is not None:
        on_teacher = projection.shape[0] == spec.width
        options |= {
            "target_width": projection.shape[1 if on_teacher else 0],
            "projection": "teacher" if on_teacher else "student",
        }
    student = Student(spec, classifier.shape[0], **options)
    wanted = student.state_dict()
    problems = [f"missing: {name}" for name in wanted.keys() - state.keys()]
    problems += [f"unexpected: {name}" for name in state.keys() - wanted.keys()]
    problems += [
        f"mis-shaped: {name} {tuple(state[name].shape)}, student '{spec.name}' has {tuple(wanted[name].shape)}"
        for name in wanted.keys() & state.keys()
        if state[name].shape != wanted[name].shape
    ]
    if problems:
        raise DataError(f"{path} does not fit student '{spec.name}':\n  " + "\n  ".join(sorted(problems)))
    student.load_state_dict(state)
    return student


def evaluate_file(path: Path, dataset: Dataset, spec: StudentSpec, recipe: Recipe, device: torch.device) -> Score:
    """Return a saved student's score on the test split, its images prepared as for training on that dataset."""
    student = student_from(load_student(path), spec, path).to(device)
    told, there = student.classifier.out_features, len(dataset.classes)
    if told != there:
        raise DataError(f"{path} tells {told} classes apart, {dataset.spec.title} has {there}")
    return evaluate_student(student, dataset, Preprocessing.of(dataset.spec, spec.image_size), recipe, device)


def evaluate_student(
    student: Student, dataset: Dataset, steps: Preprocessing, recipe: Recipe, device: torch.device
) -> Score:
    """Return a student's score on the test split, its images prepared by `steps`."""
    labels = torch.from_numpy(dataset.test_labels.copy())

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.arange(len(labels)).split(EVALUATION_BATCH):
            images = [steps.read(np.asarray(dataset.image("test", int(row)))) for row in rows]
            yield steps.inputs(images, device), labels[rows].to(device)

    return evaluate(student, batches(), recipe)
