"""Evaluation of a student on a split."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from clipkd.recipes import Recipe
from clipkd.training import losses
from clipkd.training.heads import Heads
from clipkd.training.ranks import Ranks

Score = dict[str, float]


@torch.inference_mode()
def evaluate(
    student: Heads, batches: Iterable[tuple[Tensor, Tensor]], recipe: Recipe, ranks: Ranks | None = None
) -> Score:
    """Return top-1 and top-5 accuracy in 0..1 and the mean classification loss over a split.

    Each rank takes its share of the batches; all return the same score.
    """
    ranks = ranks or Ranks()
    student.eval()
    totals = {"top1": 0.0, "top5": 0.0, "loss": 0.0}
    count = 0
    for inputs, labels in islice(batches, ranks.rank, None, ranks.count):
        logits = student(inputs).logits
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        totals["top1"] += ranked[:, 0].sum().item()
        totals["top5"] += ranked.any(dim=1).sum().item()
        totals["loss"] += losses.classification(logits, labels, recipe).item() * len(labels)
        count += len(labels)
    student.train()
    *sums, images = ranks.summed([*totals.values(), count])
    return {name: total / images for name, total in zip(totals, sums, strict=True)}
