"""The objective: a train type's loss, averaged over the teachers where there are several; of several runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipkd.core.errors import InputError, first_line
from clipkd.core.progress import say
from clipkd.plugins.methods import Losses, Method
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.students import PROJECTION_HEAD
from clipkd.plugins.students._heads import Heads, Outputs

Targets = Tensor | tuple[Tensor, ...] | None
"""A teacher's targets for a batch; a tuple only of several teachers."""


@dataclass
class Objective:
    """What a run's student is trained for."""

    method: Method
    student: Heads
    recipe: Recipe
    shares: tuple[float, ...] | None = None
    """Of several teachers' losses in their mean, with the sum 1; None: the same for each."""

    def __call__(self, outputs: Outputs, labels: Tensor, targets: Targets) -> Losses:
        """Return the loss of a batch and its parts.

        Of several teachers each has a projection of its own; what they share, the classification, is the same in each
        one's loss and in their mean.
        """
        if not isinstance(targets, tuple):
            return self.named(self.method.loss(self.student, outputs, labels, targets, self.recipe))
        each = [
            self.named(self.method.loss(self.student.projection_head(number), outputs, labels, one, self.recipe))
            for number, one in enumerate(targets)
        ]
        if self.shares is None:
            return {part: sum(losses[part] for losses in each) / len(each) for part in each[0]}
        weighted = list(zip(self.shares, each, strict=True))
        return {part: sum(share * losses[part] for share, losses in weighted) for part in each[0]}

    def named(self, parts: Losses) -> Losses:
        """Return what a train type returned as its losses; InputError where that is not what it must be (a plug-in)."""
        if not isinstance(parts, dict) or "loss" not in parts:
            raise InputError(
                f"train type '{self.method.name}': its loss() returned {type(parts).__name__}, not a dict of the "
                "batch's losses with 'loss' in it"
            )
        return parts

    @cached_property
    def head(self) -> dict[str, nn.Parameter]:
        """The parameters of the student's projection head, by name."""
        return {name: value for name, value in self.student.named_parameters() if name.startswith(PROJECTION_HEAD)}


class Objectives:
    """The objectives of runs that take their steps together. Those of one form are computed at once.

    A loss is some thirty kernels of a few numbers each, and as many backward: one after the other, those of eight
    students were a third of all kernels of a step (docs/performance.md).
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = objectives
        self.one_by_one: set[object] = set()
        """Forms whose loss can't be computed at once: a plug-in's may branch on a number or draw one."""

    def __call__(
        self, outputs: Sequence[Outputs], labels: Sequence[Tensor], targets: Sequence[Targets]
    ) -> list[Losses]:
        """Return each run's losses of its batch; arguments as for one run's, one for each."""
        batches = list(zip(self.objectives, outputs, labels, targets, strict=True))
        lots: dict[object, list[int]] = {}
        for number, (objective, _, known, taught) in enumerate(batches):
            lots.setdefault(form(objective, known, taught), []).append(number)
        found: dict[int, Losses] = {}
        for key, numbers in lots.items():
            lot = [batches[number] for number in numbers]
            found |= zip(numbers, self.of_lot(key, lot), strict=True)
        return [found[number] for number in range(len(batches))]

    def of_lot(self, key: object, lot: Sequence[tuple[Objective, Outputs, Tensor, Targets]]) -> list[Losses]:
        """Return the losses of runs of one form."""
        if len(lot) > 1 and key not in self.one_by_one:
            try:
                return at_once(*map(list, zip(*lot, strict=True)))
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever it is: if the loss itself is wrong, it raises the same below
                if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                    raise  # the steps before computed it at once
                self.one_by_one.add(key)
                name = lot[0][0].method.name
                say(f"train type '{name}': its loss is computed for one student after another ({first_line(error)})")
        return [objective(outputs, labels, targets) for objective, outputs, labels, targets in lot]


def form(objective: Objective, labels: Tensor, targets: Targets) -> object:
    """Return what runs have in common whose losses can be computed at once."""
    taught = [tuple(one.shape) for one in several(targets)]
    head = [(name, tuple(value.shape)) for name, value in objective.head.items()]
    return objective.method.name, objective.shares, tuple(labels.shape), tuple(taught), tuple(head)


def several(targets: Targets) -> tuple[Tensor, ...]:
    """Return targets as a tuple, whatever their number."""
    return targets if isinstance(targets, tuple) else () if targets is None else (targets,)


class Applied(nn.Module):
    """An objective as a module, for `functional_call`; of the student it has the projection head alone.

    A plug-in's loss that asks for more must not get one student's body for all.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.student = Heads()
        self.student.teachers = objective.student.teachers
        for name, part in (*objective.student.named_children(), *objective.student.named_parameters(recurse=False)):
            if name.startswith(PROJECTION_HEAD):
                setattr(self.student, name, part)
        self.objective = replace(objective, student=self.student)

    def forward(self, outputs: Outputs, labels: Tensor, targets: Targets) -> Losses:
        return self.objective(outputs, labels, targets)


def at_once(
    objectives: Sequence[Objective], outputs: Sequence[Outputs], labels: Sequence[Tensor], targets: Sequence[Targets]
) -> list[Losses]:
    """Return the losses of S runs of one form, computed in tensors [S, ...].

    Raises:
        Exception: torch can't compute this loss for several at once; of which kind depends on what the loss does.
    """
    first, is_tuple = Applied(objectives[0]), isinstance(targets[0], tuple)
    heads = [objective.head for objective in objectives]
    common = {f"student.{name}": torch.stack([head[name] for head in heads]) for name in heads[0]}
    embedding = torch.stack([one.embedding for one in outputs])
    logits = torch.stack([one.logits for one in outputs])
    taught = tuple(map(torch.stack, zip(*map(several, targets), strict=True)))

    def loss(head: dict[str, Tensor], embedding: Tensor, logits: Tensor, labels: Tensor, *taught: Tensor) -> Losses:
        own = taught if is_tuple else taught[0] if taught else None
        return functional_call(first, head, (Outputs(embedding, logits), labels, own))

    losses = torch.vmap(loss)(common, embedding, logits, torch.stack(list(labels)), *taught)
    each = {part: values.unbind() for part, values in losses.items()}
    return [{part: values[number] for part, values in each.items()} for number in range(len(objectives))]
