"""A forward pass without gradients over a batch of fixed size: in parts where memory is too small for all of it."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from clipkd.core.errors import lacks_memory
from clipkd.core.progress import say
from clipkd.plugins.students._heads import Outputs


def forward(student: nn.Module, inputs: Tensor) -> Outputs:
    """Return what a student in evaluation mode makes of inputs [B, 3, S, S].

    If memory runs out, each half of the batch has a pass of its own, and so on down to one image. No --batch-size
    says how many images an evaluation takes at once.
    """
    try:
        outputs: Outputs = student(inputs)
        return outputs
    except (RuntimeError, MemoryError) as error:
        if len(inputs) == 1 or not lacks_memory(error):
            raise
    # Not in the handler: the error's frames hold what the pass had allocated.
    half = -(-len(inputs) // 2)
    say_halved(len(inputs), half, inputs.device)
    parts = [forward(student, part) for part in inputs.split(half)]
    return Outputs(
        embedding=torch.cat([part.embedding for part in parts]), logits=torch.cat([part.logits for part in parts])
    )


@cache
def say_halved(count: int, half: int, device: torch.device) -> None:
    """Say once that a batch was too large."""
    say(f"evaluation: {count} images at once are too many for the memory of {device}; it goes on with {half}")
