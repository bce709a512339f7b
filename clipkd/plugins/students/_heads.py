"""What every student has beside its body: a classifier, and a projection head for each teacher."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clipkd.core.linear import Linear
from clipkd.core.progress import say

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAXIMUM_LOGIT_SCALE = math.log(100)
"""CLIP's learnable temperature, as a logarithm (https://arxiv.org/abs/2103.00020, section 2.5)."""

INITIAL_LOGIT_BIAS = -10.0
"""SigLIP's learnable bias (https://arxiv.org/abs/2303.15343, section 3.2): nearly all pairs are wrong ones."""

Widths = int | tuple[int, ...] | None
"""Dimensions D of the teacher's vectors; several for several teachers; None without any."""


@dataclass
class Outputs:
    """What a student makes of a batch."""

    embedding: Tensor
    """What the classifier sees of an image [..., B, W]."""
    logits: Tensor
    """Class scores before any softmax [..., B, C]."""


torch.export.register_dataclass(Outputs, serialized_type_name="clipkd.Outputs")  # a student can be exported as it is


class ProjectionHead(Protocol):
    """The projection to one teacher's space, and its temperature. A student with one teacher is its own head."""

    @property
    def cluster_projection(self) -> Callable[[Tensor], Tensor]: ...

    @property
    def logit_scale(self) -> Tensor: ...

    @property
    def logit_bias(self) -> Tensor: ...


@dataclass
class HeadOfOneTeacher:
    """The projection head for one of several teachers."""

    cluster_projection: nn.Module
    logit_scale: Any
    logit_bias: Any


class Heads(nn.Module):
    """The base of every student: its `forward` gives `Outputs`.

    With one teacher the parameters are `cluster_projection` and `logit_scale` (the released code's name and
    CLIP's); with several, `cluster_projections.N` and `logit_scales.N`, in the order of the teachers. A train type
    that learns a bias adds `logit_bias`, or `logit_biases.N`.
    """

    cluster_projection: nn.Linear
    logit_scale: nn.Parameter
    logit_bias: nn.Parameter
    generators: Sequence[torch.Generator | None] = (None,)
    """What draws dropout in training, where the body lets it be chosen; None: the process's own generator."""

    @property
    def has_batch_norm(self) -> bool:
        """Whether the student keeps statistics of its batches."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())

    def add_heads(self, width: int, classes: int, target_width: Widths, projection: str, learnable_scale: bool) -> None:
        """Add the classifier and the projections.

        Args:
            width: dimensions W of the embedding.
            classes: number of classes, C; 0 where the student is trained without labels.
            target_width: dimensions D of each teacher's vectors; None builds no projection.
            projection: the side that a projection stands on: "teacher" maps D to W (the released code's
                form), "student" maps W to D.
            learnable_scale: adds CLIP's `logit_scale`.
        """
        self.projection = projection
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # without classes
            self.classifier = Linear(width, classes)
        self.teachers = len(target_width) if isinstance(target_width, tuple) else 1
        if isinstance(target_width, tuple):
            self.cluster_projections = nn.ModuleList(linear(width, one, projection) for one in target_width)
            # The cosines with each teacher have a spread of their own, so each has its own temperature.
            scales = target_width if learnable_scale else ()
            self.logit_scales = nn.ParameterList(torch.tensor(INITIAL_LOGIT_SCALE) for _ in scales)
            return
        if target_width is not None:
            self.cluster_projection = linear(width, target_width, projection)
        if learnable_scale:
            self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    def add_drop_path(self, rate: float) -> None:
        """Leave out residual branches at random in training: `rate` of the images in the last block, 0 in the first.

        A student with blocks of its own overrides this; it draws with `generators`.
        """
        say(f"{type(self).__name__} has no residual blocks that clipkd knows: drop path {rate} is left out")

    def add_logit_biases(self) -> None:
        """Add SigLIP's bias for each teacher. Call it after `add_heads`."""
        if hasattr(self, "cluster_projections"):
            self.logit_biases = nn.ParameterList(torch.tensor(INITIAL_LOGIT_BIAS) for _ in range(self.teachers))
        else:
            self.logit_bias = nn.Parameter(torch.tensor(INITIAL_LOGIT_BIAS))

    @property
    def temperatures(self) -> list[Tensor]:
        """The `logit_scale` of each teacher; none where the recipe has none."""
        return [self.logit_scale] if hasattr(self, "logit_scale") else list(getattr(self, "logit_scales", ()))

    def projection_head(self, number: int) -> ProjectionHead:
        """Return the projection head for teacher `number`, from 0."""
        if self.teachers == 1:
            return self
        scale = self.logit_scales[number] if len(self.logit_scales) else None
        bias = self.logit_biases[number] if hasattr(self, "logit_biases") else None
        return HeadOfOneTeacher(self.cluster_projections[number], scale, bias)


@torch.no_grad()
def clamp_logit_scales(students: Iterable[Heads]) -> None:
    """Bring each temperature's parameter back to its maximum. Call it after each step of the optimiser.

    A clamp in the forward pass would give a parameter above the maximum no gradient, and it would stay there.
    """
    if scales := [scale for student in students for scale in student.temperatures]:
        torch._foreach_clamp_max_(scales, MAXIMUM_LOGIT_SCALE)


def linear(width: int, target_width: int, projection: str) -> nn.Linear:
    """Return the projection between a student's W and a teacher's D dimensions."""
    return nn.Linear(target_width, width) if projection == "teacher" else nn.Linear(width, target_width)
