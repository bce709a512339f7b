"""The finite guard: a loss or gradient that is NaN or infinite freezes the weights at once, without a wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipkd.runs.optimiser import AdamW


class FiniteGuard:
    """Watches a run's steps in an epoch. Its numbers stay on the device: reading one would make every step wait."""

    def __init__(self, optimiser: AdamW, device: torch.device) -> None:
        self.optimiser = optimiser
        self.place(
            torch.zeros((), device=device),
            torch.full((), -1, dtype=torch.int64, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )

    def place(self, found: Tensor, first: Tensor, step: Tensor) -> None:
        """Keep the numbers in these tensors [].

        `found`: 1 from the first bad step on, so that no later step moves the weights either. `first`: that step;
        -1: none. `step`: the next one.
        """
        self.found, self.first, self.step = found, first, step
        self.optimiser.found_inf = found

    def reset(self, step: int) -> None:
        """Start to watch at a step of an epoch, from 0."""
        self.found.zero_()
        self.first.fill_(-1)
        self.step.fill_(step)

    def first_bad_step(self) -> int | None:
        """Return the first bad step, from 0; None if all were good. Waits for the device."""
        step = int(self.first.item())
        return None if step < 0 else step


class FiniteGuards:
    """The guards of runs that take their steps together: their numbers lie in common tensors [S]."""

    def __init__(self, guards: Sequence[FiniteGuard]) -> None:
        self.found = torch.stack([guard.found for guard in guards])
        self.first = torch.stack([guard.first for guard in guards])
        self.step = torch.stack([guard.step for guard in guards])
        for guard, *places in zip(guards, self.found, self.first, self.step, strict=True):
            guard.place(*places)
        self.owners: dict[tuple[int, ...], Tensor] = {}
        """Gradients of each run -> which run each gradient is of; kept, as a CUDA graph reads them where they are."""

    def check(self, losses: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> None:
        """Note for each run whether its loss and every gradient are finite. Call it before the optimisers' steps."""
        counts = tuple(len(own) for own in gradients)
        if counts not in self.owners:
            runs = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
            self.owners[counts] = runs.to(self.found.device)
        # A gradient's norm is finite only if all its numbers are, and a sum of norms only if all norms are.
        norms = torch.stack(torch._foreach_norm([one for own in gradients for one in own]))
        totals = norms.new_zeros(len(counts)).index_add_(0, self.owners[counts], norms)
        bad = ~(torch.stack(list(losses)).detach() + totals).isfinite()
        # In place: a CUDA graph reads and writes these numbers where they were when it was captured.
        self.first.copy_(torch.where(bad & (self.first < 0), self.step, self.first))
        self.found.copy_(torch.maximum(self.found, bad.float()))
        self.step.add_(1)
