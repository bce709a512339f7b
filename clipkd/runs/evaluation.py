"""Evaluation of a student on a split."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from clipkd.plugins.methods import _losses as losses
from clipkd.plugins.recipes import Recipe
from clipkd.runs.ranks import Ranks

Score = dict[str, float]
NAMES = ("top1", "top5", "loss")
"""Of a score's parts."""


@torch.inference_mode()
def evaluate(
    student: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], recipe: Recipe, ranks: Ranks | None = None
) -> Score:
    """Return top-1 and top-5 accuracy in 0..1 and the mean classification loss over a split.

    Each rank takes its share of the batches; all return the same score.
    """
    ranks = ranks or Ranks()
    student.eval()
    sums = torch.zeros(len(NAMES), dtype=torch.float64)
    count = 0
    for inputs, labels in islice(batches, ranks.rank, None, ranks.count):
        logits = student(inputs).logits
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = losses.classification(logits, labels, recipe).double() * len(labels)
        # Read once, after the last batch: reading makes the host wait for the device.
        sums = sums.to(logits.device) + torch.stack([ranked[:, 0].sum(), ranked.any(dim=1).sum(), loss])
        count += len(labels)
    student.train()
    *totals, images = ranks.summed([*sums.tolist(), count])
    return {name: total / images for name, total in zip(NAMES, totals, strict=True)}
