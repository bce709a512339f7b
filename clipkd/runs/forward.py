"""A forward pass without gradients over a batch of fixed size: in parts where memory is too small for all of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from clipkd.core.errors import lacks_memory
from clipkd.core.progress import say
from clipkd.plugins.students._heads import Outputs


def forward(student: Callable[[Tensor], Outputs], inputs: Tensor, dim: int = 0) -> Outputs:
    """Return what a student in evaluation mode makes of inputs [B, 3, H, W].

    If memory runs out, each half of the batch has a pass of its own, and so on down to one image. No --batch-size
    says how many images an evaluation takes at once. `dim` is the batch's: 1 for a stack of N students, whose inputs
    are [N, B, 3, H, W].
    """
    try:
        return student(inputs)
    except (RuntimeError, MemoryError) as error:
        if inputs.shape[dim] == 1 or not lacks_memory(error):
            raise
    # Not in the handler: the error's frames hold what the pass had allocated.
    half = -(-inputs.shape[dim] // 2)
    say_halved(inputs.shape[dim], half, inputs.device)
    parts = [forward(student, part, dim) for part in inputs.split(half, dim)]
    return Outputs(
        embedding=torch.cat([part.embedding for part in parts], dim),
        logits=torch.cat([part.logits for part in parts], dim),
    )


@cache
def say_halved(count: int, half: int, device: torch.device) -> None:
    """Say once that a batch was too large."""
    say(f"evaluation: {count} images at once are too many for the memory of {device}; it goes on with {half}")
