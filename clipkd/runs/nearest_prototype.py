"""Nearest prototype: a student that classifies without its classifier, by similarity to the class prototypes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from clipkd.core.top_k import top_k
from clipkd.plugins.methods import _losses as losses
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.students._heads import Heads
from clipkd.runs.forward import forward
from clipkd.runs.record import Accuracy
from clipkd.runs.teacher_targets import PrototypeTargets, SeveralTargets, TeacherTargets


def similarities(
    student: Heads,
    embedding: Tensor,
    prototypes: list[Tensor],
    recipe: Recipe,
    shares: tuple[float, ...] | None = None,
) -> Tensor:
    """Return a batch's similarities [B, C] with each class: the recipe's own, averaged over the teachers.

    Args:
        student: for its projections.
        embedding: the student's, [B, W].
        prototypes: [C, D] or [C, P, D] of each teacher.
        recipe: which side is projected.
        shares: of each teacher in the average; None: the same for each.
    """
    each = [
        losses.class_similarity(student.projection_head(number), embedding, one, recipe)
        for number, one in enumerate(prototypes)
    ]
    if shares is None:
        return torch.stack(each).mean(dim=0)
    return torch.stack([share * one for share, one in zip(shares, each, strict=True)]).sum(dim=0)


@torch.inference_mode()
def nearest_prototype(
    student: Heads, batches: Iterable[tuple[Tensor, Tensor]], source: TeacherTargets, recipe: Recipe
) -> Accuracy | None:
    """Return top-1 and top-5 accuracy (shares of 1) over a split; None where the source has no prototypes."""
    sources = source.sources if isinstance(source, SeveralTargets) else (source,)
    if not all(isinstance(one, PrototypeTargets) for one in sources):
        return None
    prototypes = [cast(PrototypeTargets, one).prototypes for one in sources]
    was_training = student.training
    student.eval()
    hits, count = torch.zeros(2), 0
    for inputs, labels in batches:
        scores = similarities(student, forward(student, inputs).embedding, prototypes, recipe, source.shares)
        hits += torch.stack(top_k(scores, labels)).cpu()
        count += len(labels)
    student.train(was_training)
    return Accuracy(top1=hits[0].item() / count, top5=hits[1].item() / count)
