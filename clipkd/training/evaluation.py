"""Evaluation of a student on a split."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from clipkd.recipes import Recipe
from clipkd.training import losses
from clipkd.training.heads import Heads

Score = dict[str, float]


@torch.inference_mode()
def evaluate(student: Heads, batches: Iterable[tuple[Tensor, Tensor]], recipe: Recipe) -> Score:
    """Return top-1 and top-5 accuracy in 0..1 and the mean classification loss over a split."""
    student.eval()
    totals = {"top1": 0.0, "top5": 0.0, "loss": 0.0}
    count = 0
    for inputs, labels in batches:
        logits = student(inputs).logits
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        totals["top1"] += ranked[:, 0].sum().item()
        totals["top5"] += ranked.any(dim=1).sum().item()
        totals["loss"] += losses.classification(logits, labels, recipe).item() * len(labels)
        count += len(labels)
    student.train()
    return {name: total / count for name, total in totals.items()}
