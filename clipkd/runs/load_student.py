"""Reading a saved student back, the released code's checkpoints included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clipkd.core.errors import DataError
from clipkd.data.dataset import Dataset
from clipkd.data.preprocessing import Preprocessing
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.students import NetworkSpec
from clipkd.plugins.students._heads import Heads, Widths
from clipkd.runs.evaluation import EVALUATION_BATCH, evaluate
from clipkd.runs.folder import State, load_student
from clipkd.runs.record import Score

SHOWN = 3
"""Weights that a message names, where a file does not fit a student."""


class Misfit(DataError):
    """A file holds another student than it is read as."""


def student_from(state: State, spec: NetworkSpec, path: Path) -> Heads:
    """Return the network that a state dict fits; its classes and projections are read off the weights.

    Raises:
        Misfit: weights are missing, unexpected or mis-shaped; the message says how many, and names the first.
        DataError: there is no classifier among them.
    """
    classifier = state.get("classifier.weight")
    if classifier is None or classifier.ndim != 2:
        raise DataError(f"{path} holds no student: it lacks 'classifier.weight'")
    classes, width = classifier.shape
    target_width, projection = projections(state, width)
    learnable = "logit_scale" in state or "logit_scales.0" in state
    student = spec.network(classes, target_width, projection, learnable)
    if "logit_bias" in state or "logit_biases.0" in state:
        student.add_logit_biases()
    wanted = student.state_dict()
    problems = [f"missing: {name}" for name in wanted.keys() - state.keys()]
    problems += [f"unexpected: {name}" for name in state.keys() - wanted.keys()]
    problems += [
        f"mis-shaped: {name} {tuple(state[name].shape)}, student '{spec.name}' has {tuple(wanted[name].shape)}"
        for name in wanted.keys() & state.keys()
        if state[name].shape != wanted[name].shape
    ]
    if problems:
        lines = "\n  ".join(sorted(problems)[:SHOWN])
        raise Misfit(f"{path} does not fit student '{spec.name}', {len(problems)} weights differ:\n  {lines}")
    student.load_state_dict(state)
    return student


def projections(state: State, width: int) -> tuple[Widths, str]:
    """Return the dimensions of the teachers' vectors, and the side that the projections stand on."""
    several = [state[name] for number in range(len(state)) if (name := f"cluster_projections.{number}.weight") in state]
    found = several or [state[name] for name in ("cluster_projection.weight",) if name in state]
    if not found:
        return None, "teacher"
    # P maps D to W on the teacher's side: its rows are W. Where D = W the side makes no difference to the shapes.
    on_teacher = all(weight.shape[0] == width for weight in found)
    widths = tuple(weight.shape[1 if on_teacher else 0] for weight in found)
    return widths if several else widths[0], "teacher" if on_teacher else "student"


def evaluate_file(path: Path, dataset: Dataset, spec: NetworkSpec, recipe: Recipe, device: torch.device) -> Score:
    """Return a saved student's score on the test split, its images prepared as for training on that dataset."""
    student = student_from(load_student(path), spec, path).to(device)
    found, there = student.classifier.out_features, len(dataset.classes)
    if found != there:
        raise DataError(f"{path} tells {found} classes apart, {dataset.spec.title} has {there}")
    return evaluate_student(student, dataset, Preprocessing.of(dataset, spec.image_size), recipe, device)


def evaluate_student(
    student: nn.Module, dataset: Dataset, steps: Preprocessing, recipe: Recipe, device: torch.device
) -> Score:
    """Return a student's score on the test split, its images prepared by `steps`."""
    labels = torch.from_numpy(dataset.test_labels.copy())

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.arange(len(labels)).split(EVALUATION_BATCH):
            images = [steps.read(np.asarray(dataset.image("test", int(row)))) for row in rows]
            yield steps.inputs(images, device), labels[rows].to(device)

    return evaluate(student, batches(), recipe)
