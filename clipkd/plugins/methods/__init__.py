"""Train types: one file is one method. Each is a loss and the teacher signal that it asks for.

The metadata here imports no torch; a method's `loss` imports what it needs when it is first called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clipkd.core.registry import find, specs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from clipkd.plugins.recipes import Recipe
    from clipkd.plugins.students._heads import Outputs, ProjectionHead

Signal = Literal["nothing", "prototypes", "embeddings", "scores"]
"""What a method asks of the teacher: class prototypes [C, D] or [C, P, D], the batch's embeddings [B, D], or the
batch's class scores [B, C] (logits)."""

TargetOf = Literal["image", "another image", "another image of the class"]
"""Whose embedding or scores an image is taught: its own, or, in a control, those of another training image."""

Losses = dict[str, Any]
"""`loss`, the tensor to minimise, its named parts, and what else is recorded: means over the batch's images."""
TEACHER_TOP1 = "teacher_top1"
"""Name of the accuracy of the class scores that are taught, among the losses."""


@dataclass(frozen=True)
class Method:
    """A train type."""

    name: str
    title: str
    signal: Signal
    control_of: str | None = None
    """The method whose teacher content this one takes away, everything else being equal."""
    decides: bool = False
    """Of a control: whether the teacher's content is found to matter only where its method is better than this one.

    For a control that keeps the targets as they are and only gives them to the wrong classes or images, without harm
    that any method would escape. Comparisons with other controls are shown beside it."""
    compared_with: tuple[str, ...] = ()
    """Other methods that the tables compare this one with, beside training without a teacher."""
    target_of: TargetOf = "image"
    """Of methods that ask for embeddings or scores. Another image's are looked up, so they must be stored."""
    protocol: int = 1
    """Bumped by hand when a numerical change to this train type must run its students again."""

    @property
    def is_per_image(self) -> bool:
        """Whether the teacher is asked about each view of each image, or never or once per class."""
        return self.signal in {"embeddings", "scores"}

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
        """Return the prototypes [C, D] or [C, P, D] that this method trains with (a control replaces them).

        Where a prototype is drawn in each step, each draw is prepared: equal seeds must do the same to each.
        """
        return prototypes

    def target_rows(self, labels: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray | None:
        """Return for each training image [N] the one whose embedding or scores it is taught; None: its own.

        Args:
            labels: class numbers of all training images [N].
            rows: those that the run trains on; only they are exchanged.
            seed: the run's.
        """
        if self.target_of == "image":
            return None
        from clipkd.plugins.methods._exchange import exchanged_rows

        return exchanged_rows(rows, labels if self.target_of == "another image of the class" else None, seed)


def names() -> list[str]:
    """Return the names of all train types."""
    return list(specs(__name__))


def get(name: str) -> Method:
    """Return the train type `name`, case ignored; InputError names the nearest known one."""
    return find(__name__, "train type", name)
