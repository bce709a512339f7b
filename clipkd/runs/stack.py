"""A stack: students of one shape, computed at once; every matrix product is one batched product.

A GPU computes eight small students in little more time than one. The students' bodies lie in tensors [S, ...], and
each student's own parameters are views of them. So whatever works on one student (its projection, its optimiser,
its state dict, its evaluation) works on it alone, and no student's numbers reach another's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipkd.plugins.students import PROJECTION_HEAD
from clipkd.plugins.students._heads import Heads, Outputs
from clipkd.plugins.students._vit import Attention, ResidualBlock, Student
from clipkd.runs.ranks import Ranks


def body(student: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that students share the shape of, by name; not every student has the others."""
    return {name: value for name, value in student.named_parameters() if not name.startswith(PROJECTION_HEAD)}


def stackable_shape(student: nn.Module) -> tuple | None:
    """Return what students must have in common to form a stack; None if this one can't be in any."""
    if not isinstance(student, Student):
        return None
    shapes = tuple((name, tuple(value.shape), str(value.dtype)) for name, value in body(student).items())
    attention = [module for module in student.modules() if isinstance(module, Attention)]
    drop_paths = [module.drop_path for module in student.modules() if isinstance(module, ResidualBlock)]
    return (*shapes, *((module.heads, module.dropout) for module in attention), *drop_paths)


class OneStudent:
    """One student, used like a stack; several ranks compute it together."""

    def __init__(self, student: Heads, ranks: Ranks) -> None:
        self.student, self.ranks = student, ranks

    def __call__(self, images: Sequence[Tensor]) -> list[Outputs]:
        """Return the outputs for the whole batch [B, 3, S, S], of which each rank computes its part."""
        (inputs,) = images
        if self.ranks.count == 1:
            return [self.student(inputs)]
        part = self.student(inputs[self.ranks.shard(len(inputs))])
        return [Outputs(*(self.ranks.gather(value, len(inputs)) for value in (part.embedding, part.logits)))]

    def zero_grad(self) -> None:
        """Do nothing: the optimiser resets all gradients."""

    def share_gradients(self) -> None:
        """Do nothing: the gradients are the student's own."""


class Stack:
    """Students that are computed at once."""

    def __init__(self, students: Sequence[Student]) -> None:
        """Move the students' bodies into common tensors. All must have the same `stackable_shape`."""
        assert len({stackable_shape(student) for student in students}) == 1
        self.students = students
        self.skeleton = skeleton_of(students[0])
        self.skeleton.generators = [generator for student in students for generator in student.generators]
        parts = [body(student) for student in students]
        self.common = {name: torch.stack([part[name].detach() for part in parts]).requires_grad_() for name in parts[0]}
        for number, part in enumerate(parts):
            for name, parameter in part.items():
                parameter.data = self.common[name].detach()[number]

    def __call__(self, images: Sequence[Tensor]) -> list[Outputs]:
        """Return each student's outputs of its own images [B, 3, S, S]; as many images for each."""
        outputs = self.outputs(torch.stack(list(images)))
        return [Outputs(*pair) for pair in zip(outputs.embedding.unbind(), outputs.logits.unbind(), strict=True)]

    def outputs(self, inputs: Tensor) -> Outputs:
        """Return all students' outputs [N, B, ...], each student's of its own images in [N, B, 3, H, W]."""
        outputs: Outputs = functional_call(self.skeleton, self.common, inputs)
        return outputs

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Compute outputs as in evaluation: nothing is dropped."""
        self.skeleton.eval()
        try:
            yield
        finally:
            self.skeleton.train()

    def zero_grad(self) -> None:
        """Reset the gradients of the common tensors."""
        for parameter in self.common.values():
            parameter.grad = None

    def share_gradients(self) -> None:
        """Give each student its part of the gradients, as views."""
        parts = [body(student) for student in self.students]
        for name, parameter in self.common.items():
            if parameter.grad is None:  # without labels no loss reads the classifier
                continue
            for part, gradient in zip(parts, parameter.grad.unbind(), strict=True):
                part[name].grad = gradient


def skeleton_of(student: Student) -> Student:
    """Return a copy without storage, used only for its forward pass."""
    generators, student.generators = student.generators, []  # a GPU's generator can't always be copied
    try:
        return copy.deepcopy(student).to("meta").train()
    finally:
        student.generators = generators
