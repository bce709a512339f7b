"""Reading a saved student back, the released code's checkpoints included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from clipkd.core.errors import DataError
from clipkd.data.dataset import Dataset
from clipkd.data.preprocessing import Preprocessing
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.students import NetworkSpec
from clipkd.plugins.students._saved import student_from
from clipkd.runs.evaluation import EVALUATION_BATCH, NotFiniteError, evaluate
from clipkd.runs.folder import load_student
from clipkd.runs.record import Score


def evaluate_file(path: Path, dataset: Dataset, spec: NetworkSpec, recipe: Recipe, device: torch.device) -> Score:
    """Return a saved student's score on the test split, its images prepared as for training on that dataset."""
    student = student_from(load_student(path), spec, path).to(device)
    found, there = student.classifier.out_features, len(dataset.classes)
    if found != there:
        raise DataError(f"{path} tells {found} classes apart, {dataset.spec.title} has {there}")
    try:
        steps, as_trained = Preprocessing.of(dataset, spec.image_size), not dataset.spec.has_thumbnails
        return evaluate_student(student, dataset, steps, recipe, device, as_trained)
    except NotFiniteError as error:
        raise DataError(f"{path}: {error}") from None


def evaluate_student(
    student: nn.Module,
    dataset: Dataset,
    steps: Preprocessing,
    recipe: Recipe,
    device: torch.device,
    as_trained: bool,
) -> Score:
    """Return a student's score on the test split, its images prepared by `steps` (see `Preprocessing.packed`)."""
    labels = torch.from_numpy(dataset.test_labels.copy())

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.arange(len(labels)).split(EVALUATION_BATCH):
            images = steps.packed(dataset, "test", rows.numpy(), as_trained)
            yield steps.inputs(list(images), device), labels[rows].to(device)

    return evaluate(student, batches(), recipe)
