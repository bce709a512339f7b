"""Teacher targets: what a method asks of the teacher, from the store or from the live teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipkd.data.batches import Batch
from clipkd.data.pixels import unnormalised
from clipkd.embeddings.teacher import Teacher
from clipkd.plugins.students._heads import Widths
from clipkd.runs.vector_stores import VectorStore


class TeacherTargets:
    """A source of the teacher's targets for each batch. This base class has none."""

    teacher: Teacher | None = None
    """A teacher in this process, which costs memory and forward passes."""
    width: Widths = None
    """Dimensions D of the vectors that the projection maps to or from; None: no projection."""
    shares: tuple[float, ...] | None = None
    """Of several teachers' losses; None: the same for each."""
    draws: bool = False
    """Whether targets are drawn anew in each step."""
    generator: torch.Generator | None = None
    """What random targets are drawn with; None: the process's own generator."""

    def use_generator(self, generator: torch.Generator) -> None:
        """Draw random targets with this generator."""
        self.generator = generator

    def __call__(self, batch: Batch) -> Tensor | tuple[Tensor, ...] | None:
        """Return the targets of a batch."""
        return None


class SeveralTargets(TeacherTargets):
    """The targets of several teachers, in their order."""

    def __init__(self, sources: Sequence[TeacherTargets], shares: tuple[float, ...] | None = None) -> None:
        """`shares`: of each one's loss, with the sum 1; None: the same for each."""
        self.sources, self.shares = tuple(sources), shares
        self.width = tuple(cast(int, source.width) for source in sources)
        self.draws = any(source.draws for source in sources)

    def use_generator(self, generator: torch.Generator) -> None:
        for source in self.sources:
            source.use_generator(generator)

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        return tuple(cast(Tensor, source(batch)) for source in self.sources)


class PrototypeTargets(TeacherTargets):
    """Class prototypes [C, D] or [C, P, D], the same in every step."""

    def __init__(self, prototypes: Tensor) -> None:
        self.prototypes, self.width = prototypes, prototypes.shape[-1]

    def __call__(self, batch: Batch) -> Tensor:
        return self.prototypes


class SampledPrototypes(PrototypeTargets):
    """One vector for each class, drawn in each step from a normal distribution: mean and deviation [C, D]."""

    draws = True

    def __init__(self, mean: Tensor, deviation: Tensor, prepare: Callable[[Tensor], Tensor]) -> None:
        """`prepare`: what the method does to prototypes; a control does it to each draw, so that it is as wide."""
        super().__init__(prepare(mean))
        self.mean, self.deviation, self.prepare = mean, deviation, prepare

    def __call__(self, batch: Batch) -> Tensor:
        drawn = torch.randn(self.deviation.shape, generator=self.generator, device=self.deviation.device)
        return self.prepare(self.mean + self.deviation * drawn)


class StoredTargets(TeacherTargets):
    """Stored vectors [N, V, D]: those of the view of each image in the batch."""

    def __init__(self, vectors: VectorStore, rows: np.ndarray | None = None, has_one_view: bool = False) -> None:
        """Open stored targets.

        Args:
            vectors: what is stored.
            rows: for each image, the one whose targets it gets, of the view of the same number; None: its own.
            has_one_view: whether the first view's targets are those of all views.
        """
        self.vectors, self.rows, self.has_one_view = vectors, rows, has_one_view
        self.width = vectors.width

    def __call__(self, batch: Batch) -> Tensor:
        rows = batch.rows.numpy() if self.rows is None else self.rows[batch.rows.numpy()]
        return self.vectors(rows, 0 if self.has_one_view else batch.views.numpy())


@dataclass(frozen=True)
class Presentation:
    """How a live teacher is shown a batch: as its stored views are made."""

    native: bool
    """Whether it gets `Batch.native`, in place of the student's normalised input."""
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    """What pixels are normalised with; None: its processor presents them."""
    students: tuple[Sequence[float], Sequence[float]] | None = None
    """Mean and deviation to take off the student's input, where the teacher gets that with its own; None: as it is."""

    def __call__(self, batch: Batch, teacher: Teacher) -> Tensor:
        if self.native:
            assert batch.native is not None
            return teacher.present(batch.native, self.mean, self.std)
        if self.students is None:
            return batch.inputs  # `embed` enlarges it
        return teacher.present(unnormalised(batch.inputs, *self.students), self.mean, self.std)


class LiveTargets(TeacherTargets):
    """The teacher runs on every batch: embeddings [B, D] or, through a head, class scores [B, C]."""

    def __init__(self, teacher: Teacher, presented: Presentation, head: Callable[[Tensor], Tensor] | None) -> None:
        """Wrap a teacher.

        Args:
            teacher: who looks at each batch.
            presented: how it is shown one.
            head: what turns its vectors into class scores; None: vectors are the targets.
        """
        self.teacher, self.presented, self.width, self.head = teacher, presented, teacher.width, head

    def __call__(self, batch: Batch) -> Tensor:
        assert self.teacher is not None
        vectors = self.teacher.embed(self.presented(batch, self.teacher))
        # Inference-mode tensors can't take part in a graph; a copy can.
        return vectors.clone() if self.head is None else self.head(vectors.clone())


class StoredScores(StoredTargets):
    """Stored vectors, turned into class scores [B, C] by a head.

    Scores are not stored: with more classes than half the dimensions they take more room than the embeddings, and a
    product [B, D] x [D, C] is little beside a student's step.
    """

    def __init__(
        self,
        vectors: VectorStore,
        head: Callable[[Tensor], Tensor],
        rows: np.ndarray | None = None,
        has_one_view: bool = False,
    ) -> None:
        super().__init__(vectors, rows, has_one_view)
        self.head = head

    def __call__(self, batch: Batch) -> Tensor:
        return self.head(super().__call__(batch))


class LazyTargets(LiveTargets):
    """A live teacher that embeds each view once and keeps the embeddings in memory, float32 [N, V, D]."""

    def __init__(
        self, teacher: Teacher, presented: Presentation, head: Callable[[Tensor], Tensor] | None, count: int
    ) -> None:
        super().__init__(teacher, presented, None)
        self.then = head or (lambda vectors: vectors)
        # Pages of the memory are taken as views come up.
        self.kept = torch.empty(count, 2, teacher.width)
        self.is_kept = torch.zeros(count, 2, dtype=torch.bool)

    def __call__(self, batch: Batch) -> Tensor:
        new = ~self.is_kept[batch.rows, batch.views]
        if new.any():
            here = new.to(batch.inputs.device)
            native = None if batch.native is None else batch.native[here]
            unseen = replace(
                batch, rows=batch.rows[new], views=batch.views[new], inputs=batch.inputs[here], native=native
            )
            self.kept[unseen.rows, unseen.views] = super().__call__(unseen).cpu()
            self.is_kept[unseen.rows, unseen.views] = True
        return self.then(self.kept[batch.rows, batch.views].to(batch.inputs.device))


def linear(weight: np.ndarray, bias: np.ndarray, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the stored head as a function of embeddings [B, D]."""
    layer = torch.from_numpy(weight.copy()).to(device), torch.from_numpy(bias.copy()).to(device)
    return lambda vectors: F.linear(vectors, *layer)
