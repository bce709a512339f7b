"""Finite numbers: a loss or gradient that is not one stops the weights at once, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Guard:
    """Watches the steps of an epoch; the fused optimiser skips its update where `found` is 1."""

    def __init__(self, optimiser: torch.optim.Optimizer, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        """1 from the first bad step on, so that no later one moves the weights either."""
        self.first = torch.full((), -1, dtype=torch.int64, device=device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        # torch's own switch of a mixed-precision scaler: read by the fused kernel, on the device.
        optimiser.found_inf = self.found  # type: ignore[attr-defined]

    def reset(self, step: int) -> None:
        """Begin to watch at a step of an epoch, from 0."""
        self.found.zero_()
        self.first.fill_(-1)
        self.step.fill_(step)

    def look(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        """Note whether the loss and every gradient of a step are finite; call before the optimiser's step."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # A sum of squares is finite only where every term is.
        total = torch.nn.utils.get_total_norm(gradients)
        bad = ~(loss.detach().isfinite() & total.isfinite())
        self.first.copy_(torch.where(bad & (self.first < 0), self.step, self.first))
        self.found.copy_(torch.maximum(self.found, bad.float()))
        self.step.add_(1)

    def first_bad(self) -> int | None:
        """Return the first bad step, from 0; None where all were good. Waits for the device."""
        step = int(self.first.item())
        return None if step < 0 else step
