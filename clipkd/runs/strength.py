"""How strong `augment: auto` is: by the student's size and the length of the run."""

from __future__ import annotations

from clipkd.plugins.recipes import Strength
from clipkd.plugins.students import NetworkSpec

LARGE, LONG = 2_500_000, 5_000_000
"""Parameters and images seen from which on full strength is published to help: ViTs of 2.7 M parameters, 100 epochs of
50,000 images (docs/method.md)."""
REPEATED = 100
"""Epochs from which on crops were better than flips alone for small students."""


def strength_for(spec: NetworkSpec, images: int, epochs: int) -> Strength:
    """Return how strongly to augment `images` training images for a student over so many epochs.

    Too strong costs a small student in a short run 5 points and more; too weak, a large one in a long run far more.
    Between what was measured, the weaker one is taken.
    """
    if parameters(spec) >= LARGE and images * epochs >= LONG:
        return "full"
    return "crop" if epochs >= REPEATED else "flip"


def parameters(spec: NetworkSpec) -> int:
    """Return the number of a student's parameters, without a projection and for two classes."""
    # Not on torch's meta device: some models read numbers while they are built.
    return sum(parameter.numel() for parameter in spec.network(2, None, "student", False).parameters())
