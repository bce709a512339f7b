"""Students in a stack: each is what it would be alone, and no number of one reaches another."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clipkd.plugins import methods, recipes
from clipkd.plugins.students import StudentSpec
from clipkd.plugins.students._vit import Outputs, Student, build_student
from clipkd.runs.optimiser import adamw
from clipkd.runs.stack import Stack, body, stackable_shape
from clipkd.spec.settings import Hyperparameters

SPEC = StudentSpec("toy", 16, 4, 24, 3, 4)
CLASSES, BATCH, STEPS = 5, 6, 4
TYPES = ("supervised", "vanilla", "teacher-KD", "embed-KD", "DKD", "RKD", "sigmoid-KD", "embed-KD-nd")
WIDTHS = (None, 32, 32, 48, 32, 32, 32, 48)
"""Two teachers, and none: what is outside the common body may differ."""


def students(recipe: str, dtype: torch.dtype) -> list[Student]:
    made = []
    for seed, (width, name) in enumerate(zip(WIDTHS, TYPES, strict=True)):
        torch.manual_seed(seed)
        student = build_student(SPEC, CLASSES, width, recipes.get(recipe), methods.get(name).learns_bias).to(dtype)
        student.generators = [torch.Generator().manual_seed(seed)]
        made.append(student.train())
    return made


def material(seed: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    """Return each student's images, labels and teacher's signal in one step."""
    draw = torch.Generator().manual_seed(seed)
    images = [torch.randn(BATCH, 3, 16, 16, generator=draw).to(dtype) for _ in TYPES]
    labels = [torch.randint(CLASSES, (BATCH,), generator=draw) for _ in TYPES]
    of = {"nothing": None, "scores": (BATCH, CLASSES), "embeddings": (BATCH, 32), "prototypes": (CLASSES, 48)}
    shapes = [of[methods.get(name).signal] for name in TYPES]
    signals = [None if size is None else torch.randn(size, generator=draw).to(dtype) for size in shapes]
    return images, labels, signals


def trained(recipe: str, dtype: torch.dtype, stacked: bool, spoil: int | None = None) -> list[Student]:
    """Return the students after a few steps; `spoil`: a student whose images are not finite in the second."""
    group, rules = students(recipe, dtype), recipes.get(recipe)
    stack = Stack(group) if stacked else None
    optimisers = [adamw(student, Hyperparameters(learning_rate=1e-2), rules) for student in group]
    for step in range(STEPS):
        images, labels, signals = material(step, dtype)
        if spoil is not None and step == 1:
            images[spoil] = images[spoil] * float("nan")
        for optimiser in optimisers:
            optimiser.zero_grad()
        outputs: list[Outputs]
        if stack:
            stack.zero_grad()
            outputs = stack(images)
        else:
            outputs = [student(shown) for student, shown in zip(group, images, strict=True)]
        losses = [
            methods.get(name).loss(student, out, truth, signal, rules)["loss"]
            for name, student, out, truth, signal in zip(TYPES, group, outputs, labels, signals, strict=True)
        ]
        torch.stack(losses).sum().backward()
        if stack:
            stack.share_gradients()
        for optimiser in optimisers:
            optimiser.step()
    return group


def check_equal(found: Student, wanted: Student, tolerance: float) -> None:
    """In float32 one weight in a thousand may stray: of a gradient that is nearly 0 AdamW makes steps of any size."""
    strays = 1e-3 if next(wanted.parameters()).dtype == torch.float32 else 0
    for name, value in wanted.state_dict().items():
        ours = found.state_dict()[name]
        if name.endswith("in_proj_bias"):
            # A key's bias moves all scores of a query alike: its gradient is 0 but for rounding, of which AdamW makes
            # steps of any size.
            ours, value = (both.view(3, -1)[[0, 2]] for both in (ours, value))
        assert ((ours - value).abs() > tolerance).double().mean() <= strays, name
        assert (ours - value).isfinite().all(), name


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_a_stack_trains_each_student_as_it_would_alone(recipe: str, dtype: torch.dtype, tolerance: float) -> None:
    together, alone = trained(recipe, dtype, stacked=True), trained(recipe, dtype, stacked=False)
    start = students(recipe, dtype)
    for number, (found, wanted) in enumerate(zip(together, alone, strict=True)):
        check_equal(found, wanted, tolerance)
        moved = found.state_dict()["conv1.weight"] - start[number].state_dict()["conv1.weight"]
        assert moved.abs().mean() > 50 * tolerance
    # vanilla has a projection that nothing reads: neither its moments nor weight decay may touch it.
    unread = "cluster_projection.weight"
    assert torch.equal(together[1].state_dict()[unread], start[1].state_dict()[unread])
    # The control: another student's weights differ by far more than the tolerance.
    other = together[0].state_dict()["conv1.weight"] - alone[1].state_dict()["conv1.weight"]
    assert other.abs().max() > 100 * tolerance


def test_a_student_that_is_not_finite_leaves_the_others_alone() -> None:
    together, alone = trained("corrected", torch.float64, True, spoil=2), trained("corrected", torch.float64, False)
    for number in (0, 1, 3, 4, 5, 6, 7):
        check_equal(together[number], alone[number], 1e-11)
    assert not together[2].state_dict()["conv1.weight"].isfinite().all()


def test_what_no_loss_reads_stays_as_it_is() -> None:
    """Without labels nothing reads the classifiers."""
    group = students("corrected", torch.float32)
    stack, start = Stack(group), [student.state_dict()["classifier.weight"].clone() for student in group]
    optimisers = [adamw(student, Hyperparameters(), recipes.get("corrected")) for student in group]
    outputs = stack([torch.randn(2, 3, 16, 16)] * len(group))
    torch.stack([out.embedding.square().mean() for out in outputs]).sum().backward()
    stack.share_gradients()
    for optimiser in optimisers:
        optimiser.step()
    for student, before in zip(group, start, strict=True):
        assert torch.equal(student.state_dict()["classifier.weight"], before)
        assert student.conv1.weight.grad is not None
        assert student.conv1.weight.grad.abs().max() > 0


def test_a_students_own_parameters_are_views_of_the_stacks() -> None:
    group = students("corrected", torch.float32)
    stack = Stack(group)
    group[1].load_state_dict({name: value + 0.01 for name, value in group[1].state_dict().items()})
    for name, common in stack.common.items():
        assert torch.equal(common[1], body(group[1])[name])
    group[1].eval(), group[0].eval()
    images = torch.randn(2, 3, 16, 16)
    stack.skeleton.eval()
    outputs = stack([images] * len(group))
    torch.testing.assert_close(outputs[1].logits, group[1](images).logits)
    assert not torch.allclose(outputs[0].logits, outputs[1].logits)


def test_which_students_form_a_stack() -> None:
    recipe = recipes.get("corrected")
    toy = [stackable_shape(build_student(SPEC, CLASSES, width, recipe)) for width in WIDTHS]
    assert len(set(toy)) == 1
    assert stackable_shape(build_student(SPEC, CLASSES + 1, None, recipe)) != toy[0]
    deeper, heads = StudentSpec("deep", 16, 4, 24, 4, 4), StudentSpec("heads", 16, 4, 24, 3, 2)
    assert stackable_shape(build_student(deeper, CLASSES, None, recipe)) != toy[0]
    assert stackable_shape(build_student(heads, CLASSES, None, recipe)) != toy[0], "equal weights, another function"
    assert stackable_shape(torch.nn.Linear(2, 2)) is None
