"""Evaluation of a student on a split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from clipkd.core.errors import DataError
from clipkd.core.top_k import hits
from clipkd.plugins.methods import _losses as losses
from clipkd.plugins.recipes import Recipe
from clipkd.runs.forward import forward
from clipkd.runs.nearest_prototype import nearest_prototype
from clipkd.runs.ranks import Ranks
from clipkd.runs.record import Accuracy, Score
from clipkd.runs.run import Run
from clipkd.runs.stack import Stack

EVALUATION_BATCH = 500


class NotFiniteError(DataError):
    """A student's loss is not finite, on images that it is measured on."""


def evaluate(
    student: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], recipe: Recipe, ranks: Ranks | None = None
) -> Score:
    """Return top-1 and top-5 accuracy in 0..1 and the mean classification loss over a split."""
    return evaluate_each(student, batches, recipe, ranks)[0]


@torch.inference_mode()
def evaluate_each(
    student: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], recipe: Recipe, ranks: Ranks | None = None
) -> tuple[Score, np.ndarray]:
    """Return the score over a split, and which of its images are classified correctly, bool [N].

    Each rank takes its share of the batches; all return the same. The student stays in the mode that it was in.

    Raises:
        NotFiniteError: the mean loss is not finite.
    """
    ranks = ranks or Ranks()
    was_training = student.training
    student.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    count = 0
    correct: list[Tensor] = []
    for inputs, labels in islice(batches, ranks.rank, None, ranks.count):
        logits = forward(student, inputs).logits
        found = hits(logits, labels)
        correct.append(found[:, 0])
        loss = losses.classification(logits, labels, recipe).double() * len(labels)
        # Read once, after the last batch: reading makes the host wait for the device.
        sums = sums.to(logits.device) + torch.stack([found[:, 0].sum(), found.sum(), loss])
        count += len(labels)
    student.train(was_training)
    return score_of(*ranks.sum([*sums.tolist(), count])), in_order(correct, ranks)


def score_of(top1: float, top5: float, loss: float, images: float) -> Score:
    """Return the score that sums over images make; NotFiniteError where it is none."""
    if not math.isfinite(loss):
        raise NotFiniteError("the loss on the images that the student is measured on is not finite")
    return Score(top1=top1 / images, top5=top5 / images, loss=loss / images)


@torch.inference_mode()
def sums_of(stack: Stack, batches: Iterable[tuple[Tensor, Tensor]], recipe: Recipe) -> list[list[float]]:
    """Return what makes the score (`score_of`) of each of a stack's N students, computed at once.

    Args:
        stack: the students.
        batches: inputs [N, B, 3, H, W] and labels [N, B], of each student its own.
        recipe: theirs.
    """
    classification = torch.vmap(partial(losses.classification, recipe=recipe))
    sums = torch.zeros(3, len(stack.students), dtype=torch.float64)
    count = 0
    with stack.evaluating():
        for inputs, labels in batches:
            logits = forward(stack.outputs, inputs, dim=1).logits
            found = hits(logits.flatten(0, 1), labels.flatten()).unflatten(0, labels.shape)
            loss = classification(logits, labels).double() * labels.shape[1]
            sums = sums.to(logits.device) + torch.stack([found[..., 0].sum(dim=1), found.sum(dim=(1, 2)), loss])
            count += labels.shape[1]
    return [[*each, count] for each in sums.T.tolist()]


def in_order(parts: list[Tensor], ranks: Ranks) -> np.ndarray:
    """Return the parts [B] of all ranks as one, bool [N]; each rank has every `ranks.count`-th of them."""
    mine = slice(ranks.rank, None, ranks.count)
    lengths = np.zeros(round(ranks.sum([len(parts)])[0]))
    lengths[mine] = [len(part) for part in parts]
    ends = np.cumsum(ranks.sum(lengths.tolist())).astype(int)
    whole = np.zeros(ends[-1])
    for end, part in zip(ends[mine], parts, strict=True):
        whole[end - len(part) : end] = part.cpu()
    return np.array(ranks.sum(whole.tolist())) > 0


def score_each(run: Run) -> tuple[Score, np.ndarray]:
    """Return the student's score on the test split, and which of its images are classified correctly, bool [N]."""
    return evaluate_each(run.student, images_of(run, "test"), run.recipe, run.ranks)


def score(run: Run, part: str) -> Score:
    """Return the student's score on the test split or on the rows held out for validation."""
    return evaluate(run.student, images_of(run, part), run.recipe, run.ranks)


def sums_of_runs(runs: Sequence[Run], stack: Stack, part: str) -> list[list[float]]:
    """Return what makes each run's score on a split, as `score` does, computed at once; all have as many images."""
    return sums_of(stack, images_of_all(runs, part), runs[0].recipe)


def score_prototypes(run: Run) -> Accuracy | None:
    """Return the student's test accuracy by its nearest class prototype; None without prototypes."""
    return nearest_prototype(run.student, images_of(run, "test"), run.source, run.recipe)


def images_of_all(runs: Sequence[Run], part: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs [N, B, 3, H, W] and labels [N, B] of a split, for each of N runs its own."""
    rows = [run.job.labelled.validation for run in runs]
    if part == "test" or all(np.array_equal(rows[0], each) for each in rows):
        for inputs, labels in images_of(runs[0], part):
            yield inputs.expand(len(runs), *inputs.shape), labels.expand(len(runs), *labels.shape)
    else:
        for each in zip(*(images_of(run, part) for run in runs), strict=True):
            yield torch.stack([inputs for inputs, _ in each]), torch.stack([labels for _, labels in each])


def images_of(run: Run, part: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and labels of the test split or of the rows held out for validation."""
    if part == "test":
        return run.batches.evaluation("test", None, EVALUATION_BATCH)
    return run.batches.evaluation("train", run.job.labelled.validation, EVALUATION_BATCH)
