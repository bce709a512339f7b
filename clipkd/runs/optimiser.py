"""AdamW and its learning rate, as a recipe asks for them."""

from __future__ import annotations

import math

import torch
from torch import nn

from clipkd.plugins.recipes import Recipe
from clipkd.spec.settings import Hyperparameters

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
    device = next(student.parameters()).device
    # On the device: a GPU that replays a step (clipkd/runs/cuda_graph.py) reads the learning rate where it lies.
    rate = torch.tensor(numbers.learning_rate, dtype=torch.float32, device=device)
    # One kernel for all weights: a small student spends a tenth of a step in the unfused update.
    return torch.optim.AdamW(groups, lr=rate, fused=True, capturable=device.type == "cuda")


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, without waiting for the device."""
    for group in optimiser.param_groups:
        group["lr"].fill_(rate)


def move_settings(optimiser: torch.optim.Optimizer, device: torch.device) -> None:
    """Move a loaded optimiser's settings, which may come from another device, to this one."""
    for group in optimiser.param_groups:
        group["lr"], group["capturable"] = group["lr"].to(device), device.type == "cuda"


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
