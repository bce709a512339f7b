"""The finite guard: a loss or gradient that is NaN or infinite freezes the weights at once, without a wait."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clipkd.runs.optimiser import AdamW


class FiniteGuard:
    """Watches the steps of an epoch. Its numbers stay on the device: reading one would make every step wait."""

    def __init__(self, optimiser: AdamW, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        """1 from the first bad step on, so that no later step moves the weights either."""
        self.first = torch.full((), -1, dtype=torch.int64, device=device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        optimiser.found_inf = self.found

    def reset(self, step: int) -> None:
        """Start to watch at a step of an epoch, from 0."""
        self.found.zero_()
        self.first.fill_(-1)
        self.step.fill_(step)

    def check(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        """Note whether the loss and every gradient are finite. Call it before the optimiser's step."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # A sum of squares is finite only if every term is.
        total = torch.nn.utils.get_total_norm(gradients)
        bad = ~(loss.detach().isfinite() & total.isfinite())
        # In place: a CUDA graph reads and writes these numbers where they were when it was captured.
        self.first.copy_(torch.where(bad & (self.first < 0), self.step, self.first))
        self.found.copy_(torch.maximum(self.found, bad.float()))
        self.step.add_(1)

    def first_bad_step(self) -> int | None:
        """Return the first bad step, from 0; None if all were good. Waits for the device."""
        step = int(self.first.item())
        return None if step < 0 else step
