"""Train types: one file is one method. Each is a loss and the teacher signal that it asks for.

The metadata here imports no torch; a method's `loss` imports what it needs when it is first called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clipkd.core.registry import find, specs

if TYPE_CHECKING:
    from torch import Tensor

    from clipkd.plugins.recipes import Recipe
    from clipkd.plugins.students._heads import Outputs, ProjectionHead

Signal = Literal["nothing", "prototypes", "embeddings", "scores"]
"""What a method asks of the teacher: class prototypes [C, D] or [C, P, D], the batch's embeddings [B, D], or the
batch's class scores [B, C] (logits)."""

Losses = dict[str, Any]
"""`loss`, the tensor to minimise, and its named parts."""


@dataclass(frozen=True)
class Method:
    """A train type."""

    name: str
    title: str
    signal: Signal
    control_of: str | None = None
    """The method whose teacher content this one takes away, everything else being equal."""

    def loss(
        self, student: ProjectionHead, outputs: Outputs, labels: Tensor, signal: Tensor | None, recipe: Recipe
    ) -> Losses:
        """Return the loss of one batch and its parts.

        Args:
            student: the projection head for the teacher: projection and logit scale.
            outputs: what the student made of the batch.
            labels: class numbers, int64 [B].
            signal: the teacher's, as `self.signal` says.
            recipe: the switches.
        """
        raise NotImplementedError

    def prepare(self, prototypes: Tensor, seed: int) -> Tensor:
        """Return the prototypes [C, D] that this method trains with (a control replaces them)."""
        return prototypes


def names() -> list[str]:
    """Return the names of all train types."""
    return list(specs(__name__))


def get(name: str) -> Method:
    """Return the train type `name`, case ignored; InputError names the nearest known one."""
    return find(__name__, "train type", name)
