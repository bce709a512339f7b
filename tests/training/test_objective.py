"""The losses of runs that take their steps together: each is what it is alone, in few kernels for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clipkd.plugins import methods, recipes
from clipkd.plugins.methods import Losses, Method
from clipkd.plugins.students import StudentSpec
from clipkd.plugins.students._heads import Outputs
from clipkd.plugins.students._vit import build_student
from clipkd.runs.objective import Objective, Objectives

SPEC = StudentSpec("toy", 16, 4, 24, 3, 4)
CLASSES, BATCH, WIDTH, STUDENTS = 5, 6, 32, 3


@dataclass
class Case:
    """A run's objective, and what it is asked about."""

    objective: Objective
    outputs: Outputs
    labels: Tensor
    targets: Tensor | tuple[Tensor, ...] | None

    def leaves(self) -> list[Tensor]:
        """Return what gradients go to."""
        return [self.outputs.embedding, self.outputs.logits, *self.objective.head.values()]


def cases(method: Method, recipe: str, teachers: int = 1, mixed: bool = False, count: int = STUDENTS) -> list[Case]:
    torch.manual_seed(0)
    rules = recipes.get(recipe)
    size = {"nothing": (), "scores": (BATCH, CLASSES), "embeddings": (BATCH, WIDTH), "prototypes": (CLASSES, WIDTH)}
    width = None if method.signal == "nothing" else WIDTH if teachers == 1 else (WIDTH,) * teachers
    made = []
    for _ in range(count):
        student = build_student(SPEC, CLASSES, width, rules, method.learns_bias).double()
        for value in student.parameters():
            value.data += 0.1 * torch.randn_like(value)
        drawn = tuple(torch.randn(size[method.signal], dtype=torch.float64) for _ in range(teachers))
        targets = None if method.signal == "nothing" else drawn[0] if teachers == 1 else drawn
        made.append(
            Case(
                Objective(method, student, rules, None if teachers == 1 else (0.7, 0.3)),
                Outputs(
                    torch.randn(BATCH, SPEC.width, dtype=torch.float64, requires_grad=True),
                    torch.randn(BATCH, CLASSES, dtype=torch.float64, requires_grad=True),
                ),
                torch.rand(BATCH, CLASSES, dtype=torch.float64).softmax(1) if mixed else torch.randint(5, (BATCH,)),
                targets,
            )
        )
    return made


def together(objectives: Objectives, asked: list[Case]) -> list[Losses]:
    return objectives([one.outputs for one in asked], [one.labels for one in asked], [one.targets for one in asked])


def check_each_as_alone(objectives: Objectives, asked: list[Case]) -> None:
    """Losses, their parts and all gradients."""
    found = together(objectives, asked)
    alone = [one.objective(one.outputs, one.labels, one.targets) for one in asked]
    for mine, right, case in zip(found, alone, asked, strict=True):
        assert list(mine) == list(right)
        for part, value in right.items():
            torch.testing.assert_close(mine[part], value, rtol=1e-12, atol=1e-12)
        assert right["loss"].isfinite()
        pairs = [torch.autograd.grad(one["loss"], case.leaves(), allow_unused=True, retain_graph=True)
                 for one in (mine, right)]  # fmt: skip
        for ours, wanted in zip(*pairs, strict=True):
            assert (ours is None) == (wanted is None)
            if wanted is not None:
                torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("recipe", ["reference", "modern"])
@pytest.mark.parametrize("name", methods.names())
def test_every_train_type_is_computed_for_several_at_once(name: str, recipe: str, mixed: bool) -> None:
    asked = cases(methods.get(name), recipe, mixed=mixed)
    objectives = Objectives([one.objective for one in asked])
    check_each_as_alone(objectives, asked)
    assert not objectives.one_by_one


@pytest.mark.parametrize("name", ["embed-KD", "teacher-KD", "vanilla"])
def test_so_is_the_mean_over_several_teachers(name: str) -> None:
    asked = cases(methods.get(name), "corrected", teachers=2)
    objectives = Objectives([one.objective for one in asked])
    check_each_as_alone(objectives, asked)
    assert not objectives.one_by_one


def test_runs_of_several_forms_keep_their_order() -> None:
    names = ["embed-KD", "supervised", "vanilla", "embed-KD", "supervised", "embed-KD-nd"]
    each = {name: cases(methods.get(name), "corrected") for name in names}
    asked = [each[name].pop() for name in names]
    check_each_as_alone(Objectives([one.objective for one in asked]), asked)


class Own(Method):
    """A plug-in's train type."""

    def loss(self, student, outputs, labels, signal, recipe):
        return {"loss": outputs.logits.square().mean() * self.factor(outputs.logits)}

    def factor(self, logits: Tensor) -> float | Tensor:
        raise NotImplementedError


class Branching(Own):
    def factor(self, logits: Tensor) -> float:
        return 2.0 if logits.mean().item() > 0 else 3.0


class Drawing(Own):
    def factor(self, logits: Tensor) -> Tensor:
        return torch.rand(()).double()


class Body(Method):
    """Reads what is no part of the projection head."""

    def loss(self, student, outputs, labels, signal, recipe):
        return {"loss": student.classifier.weight.square().mean() * outputs.logits.square().mean()}


class Failing(Own):
    def factor(self, logits: Tensor) -> float:
        raise KeyError("of the plug-in itself")


@pytest.fixture
def own() -> Callable[[type[Method]], Method]:
    return lambda kind: kind(**vars(replace(methods.get("supervised"), name="own")))


@pytest.mark.parametrize("kind", [Branching, Body])
def test_a_loss_that_needs_numbers_or_the_body_is_computed_one_by_one(kind, own, capsys) -> None:
    asked = cases(own(kind), "corrected")
    objectives = Objectives([one.objective for one in asked])
    check_each_as_alone(objectives, asked)
    check_each_as_alone(objectives, asked)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1, "it is said once"
    assert said[0].startswith("train type 'own': its loss is computed for one student after another (")


def test_a_loss_that_draws_a_number_draws_one_for_each_student(own) -> None:
    asked = cases(own(Drawing), "corrected")
    torch.manual_seed(1)
    found = together(Objectives([one.objective for one in asked]), asked)
    torch.manual_seed(1)
    alone = [one.objective(one.outputs, one.labels, one.targets) for one in asked]
    assert [one["loss"].item() for one in found] == [one["loss"].item() for one in alone]


def test_memory_that_runs_out_is_not_tried_again(own, monkeypatch) -> None:
    asked = cases(own(Branching), "corrected")
    objectives = Objectives([one.objective for one in asked])

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("clipkd.runs.objective.at_once", full)
    with pytest.raises(torch.OutOfMemoryError):
        together(objectives, asked)


def test_a_plug_ins_mistake_is_told_as_it_is(own) -> None:
    asked = cases(own(Failing), "corrected")
    with pytest.raises(KeyError, match="of the plug-in itself"):
        together(Objectives([one.objective for one in asked]), asked)


class Kernels(TorchDispatchMode):
    """Counts operations that compute or copy."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        aliases = [argument.alias_info for argument in function._schema.arguments if argument.alias_info]
        self.count += all(alias.is_write for alias in aliases) and "empty" not in function.__name__
        return function(*arguments, **(keywords or {}))


def kernels(count: int) -> int:
    asked = cases(methods.get("embed-KD"), "modern", count=count)
    objectives = Objectives([one.objective for one in asked])
    with Kernels() as seen:
        torch.stack([losses["loss"] for losses in together(objectives, asked)]).sum().backward()
    return seen.count


def test_another_student_of_a_train_type_adds_one_kernel() -> None:
    """The copy of one gradient. What a GPU launches for one loss costs it as much as a product of all students."""
    assert kernels(2) > 50
    assert kernels(8) - kernels(2) <= 6
