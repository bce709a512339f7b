"""A stack: students of one shape, computed at once; every product of matrices is one batched product.

A GPU computes eight small students in little more time than one. The students' body lies in tensors [S, ...], of
which each student's own parameters are views. So whatever works on one student (its projection, its optimiser,
its state dict, its evaluation) works on it alone, as ever, and no student's numbers reach another's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipkd.plugins.students._vit import Attention, Outputs, Student

OWN = ("cluster_projection", "logit_scale")
"""Parameters outside the body: not every student has them, or of the same shape."""


def body(student: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that students share the shape of, by name."""
    return {name: value for name, value in student.named_parameters() if not name.startswith(OWN)}


def shape(student: nn.Module) -> tuple | None:
    """Return what two students must have in common to stand in one stack; None: this one stands alone."""
    if not isinstance(student, Student):
        return None
    shapes = tuple((name, tuple(value.shape), str(value.dtype)) for name, value in body(student).items())
    attention = [module for module in student.modules() if isinstance(module, Attention)]
    return (*shapes, *((module.heads, module.dropout) for module in attention))


class Stack:
    """Students that are computed at once."""

    def __init__(self, students: Sequence[Student]) -> None:
        """Move the students' bodies into common tensors. Their `shape` must be one."""
        assert len({shape(student) for student in students}) == 1
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
        outputs = functional_call(self.skeleton, self.common, torch.stack(list(images)))
        return [Outputs(*pair) for pair in zip(outputs.embedding.unbind(), outputs.logits.unbind(), strict=True)]

    def zero_grad(self) -> None:
        """Forget the gradients of the common tensors."""
        for parameter in self.common.values():
            parameter.grad = None

    def share_gradients(self) -> None:
        """Give each student its part of the gradients: views, nothing is copied."""
        parts = [body(student) for student in self.students]
        for name, parameter in self.common.items():
            assert parameter.grad is not None
            for part, gradient in zip(parts, parameter.grad.unbind(), strict=True):
                part[name].grad = gradient


def skeleton_of(student: Student) -> Student:
    """Return a copy without numbers, of which only the forward pass is taken."""
    generators, student.generators = student.generators, []  # a generator of a GPU need not be copyable
    try:
        return copy.deepcopy(student).to("meta").train()
    finally:
        student.generators = generators
