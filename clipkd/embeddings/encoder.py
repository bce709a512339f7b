"""What every library's models are here: a function from images to vectors. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipkd.core.errors import InputError, MachineError
from clipkd.embeddings.processor import Processor
from clipkd.plugins.teachers import Output, TeacherSpec


@dataclass
class Encoder:
    """A loaded model, on its device, without gradients."""

    model: nn.Module
    embed: Callable[[Tensor], Tensor]
    """Normalised images [B, 3, S, S] -> vectors [B, D]."""
    width: int
    """Dimensions D of a vector."""
    processor: Processor
    head: nn.Linear | None = None
    """The checkpoint's own classifier of these vectors, where it is one linear layer."""


def on_device(model: nn.Module, spec: TeacherSpec, device: torch.device) -> nn.Module:
    """Return a model on a device, for inference; MachineError where it does not fit."""
    try:
        return model.eval().requires_grad_(False).to(device)
    except torch.OutOfMemoryError:
        raise MachineError(f"teacher '{spec.name}' does not fit the memory of {device}") from None


@torch.inference_mode()
def width_of(spec: TeacherSpec, run: Callable[[Tensor], Tensor], side: int, device: torch.device) -> int:
    """Return the dimensions D of a model's vectors, from what it gives for an empty image of `side` pixels."""
    vectors = run(torch.zeros(1, 3, side, side, device=device))
    if not isinstance(vectors, Tensor) or vectors.ndim != 2:
        raise InputError(f"teacher '{spec.name}': its '{spec.output}' is not one vector per image")
    return vectors.shape[1]


def unchanged(width: int) -> nn.Linear:
    """Return the classifier of vectors that are class scores already."""
    layer = nn.Linear(width, width)
    layer.weight.data.copy_(torch.eye(width))
    layer.bias.data.zero_()
    return layer.requires_grad_(False)


def check_output(spec: TeacherSpec, outputs: tuple[Output, ...], kind: str) -> None:
    """Raise InputError where models of a kind do not have what is to be taken of them."""
    if spec.output not in outputs:
        found = ", ".join(f":{output}" for output in outputs)
        raise InputError(f"teacher '{spec.name}': {kind} has no '{spec.output}'; end its name in one of {found}")
