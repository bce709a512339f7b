"""AdamW and its learning rate, as a recipe asks for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as functional_adamw

from clipkd.plugins.recipes import Recipe
from clipkd.spec.settings import Hyperparameters

UNDECAYED = {"class_embedding", "positional_embedding", "logit_scale", "logit_bias"}


class AdamW:
    """AdamW with torch's own fused kernel, and with the state dict of `torch.optim.AdamW`.

    `torch.optim.Optimizer` imports torch's compiler when it is first used, which costs a process a second; so this
    class calls the function below it.
    """

    def __init__(self, groups: list[tuple[list[nn.Parameter], float]], rate: float) -> None:
        """Optimise groups of parameters, each with its weight decay."""
        self.groups = groups
        self.parameters = [parameter for parameters, _ in groups for parameter in parameters]
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        """The steps that a parameter has taken, and the running means of its gradient and of its square."""
        self.device = self.parameters[0].device
        # On the device: a GPU that replays a step (clipkd/runs/cuda_graph.py) reads the learning rate where it lies.
        self.rate = torch.tensor(rate, dtype=torch.float32, device=self.device)
        self.found_inf: Tensor | None = None
        """Where it is 1, the kernel skips the update."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for parameters, weight_decay in self.groups:
            moved: list[Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
            if not moved:
                continue
            states = [self.state_of(parameter) for parameter in moved]
            functional_adamw(
                moved,
                [parameter.grad for parameter in moved if parameter.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                # One kernel for all weights: a small student spends a tenth of a step in the unfused update.
                fused=True,
                capturable=self.device.type == "cuda",
                found_inf=self.found_inf,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self.rate,
                weight_decay=weight_decay,
                eps=1e-8,
                maximize=False,
            )

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return a parameter's state, which is 0 in the beginning."""
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros((), device=self.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.state[parameter]

    def state_dict(self) -> dict:
        """Return what a resumed training needs: the state by the parameter's number. The learning rate is no part."""
        numbers: dict[Tensor, int] = {parameter: number for number, parameter in enumerate(self.parameters)}
        return {"state": {numbers[parameter]: state for parameter, state in self.state.items()}}

    def load_state_dict(self, saved: dict) -> None:
        """Continue from a saved state, which may come from another device."""
        for number, state in saved["state"].items():
            self.state[self.parameters[number]] = {key: value.to(self.device) for key, value in state.items()}


def adamw(student: nn.Module, numbers: Hyperparameters, recipe: Recipe) -> AdamW:
    """Return AdamW; with `weight_decay_on: matrices`, biases, normalisations and embeddings keep their weight."""
    undecayed = UNDECAYED | getattr(student, "no_weight_decay", set)()
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        is_matrix = parameter.ndim >= 2 and name not in undecayed
        (decayed if is_matrix or recipe.weight_decay_on == "all" else kept).append(parameter)
    return AdamW([(decayed, numbers.weight_decay), (kept, 0.0)], numbers.learning_rate)


def learning_rate(step: int, steps: int, numbers: Hyperparameters, recipe: Recipe) -> float:
    """Return the learning rate of a step (from 0) out of `steps`.

    `cosine`: linear warm-up, then half a cosine down to the recipe's floor (I. Loshchilov, F. Hutter,
    https://arxiv.org/abs/1608.03983), where the last steps stay.
    """
    if recipe.schedule == "constant":
        return numbers.learning_rate
    warmup = max(1, round(recipe.warmup_fraction * steps))
    if step < warmup:
        start = recipe.warmup_start
        return numbers.learning_rate * (start * warmup + (1 - start) * (step + 1)) / warmup
    end = steps - round(recipe.cooldown_fraction * steps)
    done = (step - warmup) / (end - warmup) if step < end else 1.0
    falling = 0.5 * (1 + math.cos(math.pi * done))
    return numbers.learning_rate * (recipe.floor + (1 - recipe.floor) * falling)
