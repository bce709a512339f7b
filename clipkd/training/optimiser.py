"""AdamW and its learning rate, as a recipe asks for them."""

from __future__ import annotations

import math

import torch
from torch import nn

from clipkd.recipes import Recipe
from clipkd.training.job import Hyperparameters

UNDECAYED = {"class_embedding", "positional_embedding", "logit_scale"}


def adamw(student: nn.Module, numbers: Hyperparameters, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW; with `weight_decay_on: matrices`, biases, normalisations and embeddings keep their weight."""
    undecayed = UNDECAYED | getattr(student, "no_weight_decay", set)()
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        is_matrix = parameter.ndim >= 2 and name not in undecayed
        (decayed if is_matrix or recipe.weight_decay_on == "all" else kept).append(parameter)
    groups: list[dict] = [{"params": decayed, "weight_decay": numbers.weight_decay}]
    if kept:
        groups.append({"params": kept, "weight_decay": 0.0})
    # One kernel for all weights: a small student spends a tenth of a step in the unfused update.
    return torch.optim.AdamW(groups, lr=numbers.learning_rate, fused=True)


def learning_rate(step: int, steps: int, numbers: Hyperparameters, recipe: Recipe) -> float:
    """Return the learning rate of a step (from 0) out of `steps`.

    `cosine`: linear warm-up, then half a cosine down to 0 (I. Loshchilov, F. Hutter,
    https://arxiv.org/abs/1608.03983).
    """
    if recipe.schedule == "constant":
        return numbers.learning_rate
    warmup = max(1, round(recipe.warmup_fraction * steps))
    if step < warmup:
        return numbers.learning_rate * (step + 1) / warmup
    return numbers.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
