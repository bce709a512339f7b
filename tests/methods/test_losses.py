"""Each train type in each recipe: loss and gradients against plain formulas, in float64."""

from __future__ import annotations

import dataclasses
import math
from itertools import permutations

import pytest
import torch

from clipkd.plugins import methods, recipes
from clipkd.plugins.methods import _losses as losses
from clipkd.plugins.students import StudentSpec
from clipkd.plugins.students._heads import clamp_logit_scales
from clipkd.plugins.students._vit import Outputs, build_student
from clipkd.runs.optimiser import adamw
from clipkd.spec.settings import Hyperparameters
from tests.methods import plain

SPEC = StudentSpec("toy", image_size=16, patch_size=4, width=24, layers=2, heads=4)
CLASSES, TEACHER, BATCH, WEIGHT, TEMPERATURE = 5, 12, 7, 0.5, 4.0
ROWS = torch.arange(BATCH)
LATER = ("feature-KD", "feature-KD-mse", "embed-KD-nd", "DKD", "DIST", "RKD", "sigmoid-KD")
"""Train types that the released code lacks."""


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    return {
        "images": torch.randn(BATCH, 3, 16, 16, generator=generator, dtype=torch.float64),
        "labels": torch.tensor([0, 1, 1, 4, 2, 0, 1]),
        "prototypes": torch.randn(CLASSES, TEACHER, generator=generator, dtype=torch.float64),
        "embeddings": torch.randn(BATCH, TEACHER, generator=generator, dtype=torch.float64),
        "scores": 3 * torch.randn(BATCH, CLASSES, generator=generator, dtype=torch.float64),
    }


def trained_and_plain(recipe: str, learns_bias: bool = False):
    """Return clipkd's student and the plain one with equal weights, in float64, without dropout."""
    torch.manual_seed(0)
    student = build_student(SPEC, CLASSES, TEACHER, recipes.get(recipe), learns_bias).double().eval()
    if recipe == "corrected":
        student.logit_scale.data.fill_(math.log(1 / 0.07))  # as a float64
    twin = plain.PlainStudent(16, 4, 24, 2, 4, CLASSES, TEACHER).double().eval()
    shared = {name: value for name, value in student.state_dict().items() if not name.startswith(("cluster", "logit"))}
    twin.load_state_dict(shared, strict=False)
    return student, twin


def later_term(train_type, s, ours, theirs, batch, temperature, scale, bias):
    """The second term of train types that are newer than the released code; `ours`, `theirs`: in one space."""
    return {
        "feature-KD": lambda: plain.feature_cosine(ours, theirs),
        "feature-KD-mse": lambda: plain.feature_squares(ours, theirs),
        "embed-KD-nd": lambda: 2 * plain.norm_and_direction(ours, theirs, batch["labels"]),
        "DKD": lambda: plain.decoupled(s, batch["scores"], batch["labels"], temperature),
        "DIST": lambda: plain.stronger_teacher(s, batch["scores"], temperature),
        "RKD": lambda: plain.relational(batch["z"], batch["embeddings"]),
        "sigmoid-KD": lambda: plain.sigmoid_pairs(scale * plain.cosines(ours, theirs), bias),
    }[train_type]()


def reference_loss(twin, student, batch, train_type):
    """docs/method.md, "Train types": the released code's losses."""
    z, s = twin(batch["images"])
    loss = plain.cross_entropy(s, batch["labels"])
    if train_type == "vanilla":
        loss = loss + WEIGHT * plain.soft_cross_entropy(s, torch.softmax(batch["scores"], dim=1))
    if train_type == "teacher-KD":
        loss = loss + WEIGHT * plain.cross_entropy(plain.cosines(z, twin.cluster_projection(batch["embeddings"])), ROWS)
    if train_type == "embed-KD":
        loss = loss + WEIGHT * plain.cross_entropy(
            plain.cosines(z, twin.cluster_projection(batch["prototypes"])), batch["labels"]
        )
    if train_type in LATER:
        vectors = batch["prototypes" if train_type == "embed-KD-nd" else "embeddings"]
        theirs, bias = twin.cluster_projection(vectors), getattr(student, "logit_bias", None)
        loss = loss + WEIGHT * later_term(train_type, s, z, theirs, batch | {"z": z}, 1.0, 1.0, bias)
    return loss


def corrected_loss(twin, student, batch, train_type):
    """The corrected recipe of docs/method.md: logits, Hinton's KD, CLIP's scale, student-side projection."""
    z, _ = twin(batch["images"])
    logits = twin.classifier(z)
    loss = plain.cross_entropy(logits, batch["labels"])
    if train_type == "vanilla":
        loss = loss + WEIGHT * plain.kullback_leibler(logits, batch["scores"], TEMPERATURE)
    if train_type in {"teacher-KD", "embed-KD"}:
        projected = z @ student.cluster_projection.weight.T + student.cluster_projection.bias
        vectors = batch["embeddings" if train_type == "teacher-KD" else "prototypes"]
        targets = ROWS if train_type == "teacher-KD" else batch["labels"]
        loss = loss + WEIGHT * plain.cross_entropy(
            student.logit_scale.exp() * plain.cosines(projected, vectors), targets
        )
    if train_type in LATER:
        projected = z @ student.cluster_projection.weight.T + student.cluster_projection.bias
        vectors, bias = (
            batch["prototypes" if train_type == "embed-KD-nd" else "embeddings"],
            getattr(student, "logit_bias", None),
        )
        args = (projected, vectors, batch | {"z": z}, TEMPERATURE, student.logit_scale.exp(), bias)
        loss = loss + WEIGHT * later_term(train_type, logits, *args)
    return loss


@pytest.mark.parametrize("train_type", ["supervised", "vanilla", "teacher-KD", "embed-KD", *LATER])
@pytest.mark.parametrize("recipe", ["reference", "corrected"])
def test_loss_and_gradients_equal_the_plain_formulas(recipe, train_type, batch):
    method = methods.get(train_type)
    student, twin = trained_and_plain(recipe, method.learns_bias)
    if recipe == "reference":
        twin.cluster_projection.load_state_dict(student.cluster_projection.state_dict())
    signal = None if method.signal == "nothing" else batch[method.signal]
    parts = method.loss(student, student(batch["images"]), batch["labels"], signal, recipes.get(recipe))
    parts["loss"].backward()
    found = {name: value.grad.clone() for name, value in student.named_parameters() if value.grad is not None}

    student.zero_grad()
    expected = (
        reference_loss(twin, student, batch, train_type)
        if recipe == "reference"
        else corrected_loss(twin, student, batch, train_type)
    )
    expected.backward()
    wanted = {name: value.grad for name, value in twin.named_parameters() if value.grad is not None}
    wanted |= {name: value.grad for name, value in student.named_parameters() if value.grad is not None}
    torch.testing.assert_close(parts["loss"], expected, rtol=1e-12, atol=1e-12)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # A key's bias shifts all of a query's attention scores alike: its gradient is rounding only.
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13, msg=name)


def test_the_scale_is_learned(batch):
    recipe = recipes.get("corrected")
    student, _ = trained_and_plain("corrected")
    z = torch.randn(BATCH, 24, dtype=torch.float64)
    cosines = plain.cosines(student.cluster_projection(z), batch["prototypes"])
    for logarithm, scale in ((0.0, 1.0), (1.0, 2.718281828459045), (math.log(100), 100.0)):
        student.logit_scale.data.fill_(logarithm)
        torch.testing.assert_close(losses.similarity(student, z, batch["prototypes"], recipe), scale * cosines)


@pytest.mark.parametrize("clamps", [True, False])
def test_a_scale_at_its_maximum_comes_down_again(clamps):
    """AdamW by hand: m = 0.9 m + 0.1 g, v = 0.999 v + 0.001 g^2, and a step of 0.1 m' / sqrt(v')."""
    torch.manual_seed(0)
    student = build_student(SPEC, CLASSES, (TEACHER, TEACHER), recipes.get("corrected")).double()
    optimiser = adamw(student, Hyperparameters(learning_rate=0.1), recipes.get("corrected"))
    scale = student.logit_scales[1]
    scale.data.fill_(math.log(100) - 0.05)
    found = []
    for gradient in (-1.0, 1.0):
        scale.grad = torch.tensor(gradient, dtype=torch.float64)
        optimiser.step()
        if clamps:
            clamp_logit_scales([student])
        found.append(scale.item())
    # The first step, by 0.1, goes beyond ln(100) = 4.60517; of the second, m' = 0.01 / 0.19 and v' = 1.
    start = 4.605170186 if clamps else 4.655170186
    assert found == pytest.approx([start, start - 0.1 * 0.01 / 0.19], abs=1e-6)
    assert student.logit_scales[0].item() == pytest.approx(math.log(1 / 0.07)), "another teacher's is left alone"


@pytest.mark.parametrize(("classes", "floor"), [(10, 1.461), (100, 3.622), (1000, 5.909)])
def test_double_softmax_bounds_the_loss_and_shrinks_the_gradient(classes, floor):
    reference, corrected = recipes.get("reference"), recipes.get("corrected")
    certain = torch.full((1, classes), -1e4, dtype=torch.float64)
    certain[0, 3] = 1e4
    assert losses.classification(certain, torch.tensor([3]), reference).item() == pytest.approx(floor, abs=5e-4)
    assert losses.classification(certain, torch.tensor([3]), corrected).item() == 0
    gradients = []
    for recipe in (reference, corrected):
        uniform = torch.zeros(1, classes, dtype=torch.float64, requires_grad=True)
        losses.classification(uniform, torch.tensor([3]), recipe).backward()
        gradients.append(uniform.grad)
    torch.testing.assert_close(gradients[0] * classes, gradients[1])


def simplex(count: int) -> torch.Tensor:
    """Cosines of the best arrangement of unit vectors: all others equally far from each."""
    return torch.full((count, count), -1 / (count - 1), dtype=torch.float64).fill_diagonal_(1.0)


@pytest.mark.parametrize(("classes", "floor"), [(10, 1.377), (100, 3.612), (1000, 5.909)])
def test_embed_kd_without_a_temperature_is_bounded(classes, floor):
    assert losses.cross_entropy(simplex(classes), torch.arange(classes)).item() == pytest.approx(floor, abs=1e-3)


@pytest.mark.parametrize(("batch_size", "floor"), [(64, 3.170), (16, 1.818)])
def test_teacher_kd_without_a_temperature_is_bounded(batch_size, floor):
    targets = losses.batch_targets(torch.arange(batch_size) % 10, recipes.get("reference"))
    assert losses.cross_entropy(simplex(batch_size), targets).item() == pytest.approx(floor, abs=5e-4)


def test_same_class_targets_share_the_target_among_a_class():
    recipe = dataclasses.replace(recipes.get("corrected"), same_class_targets=True)
    shares = losses.batch_targets(torch.tensor([2, 0, 2]), recipe)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]))
    assert losses.batch_targets(torch.tensor([2, 0, 2]), recipes.get("corrected")).tolist() == [0, 1, 2]


def test_the_loss_of_a_control_is_that_of_embed_kd(batch):
    recipe = recipes.get("reference")
    student, _ = trained_and_plain("reference")
    outputs: Outputs = student(batch["images"])
    expected = methods.get("embed-KD").loss(student, outputs, batch["labels"], batch["prototypes"], recipe)["loss"]
    for name in ("embed-KD-random", "embed-KD-permuted", "embed-KD-onehot"):
        found = methods.get(name).loss(student, outputs, batch["labels"], batch["prototypes"], recipe)["loss"]
        assert found.item() == expected.item()


MODERN = {
    "supervised": lambda s, y, cos, t: 0.0,
    "vanilla": lambda s, y, cos, t: 10 * plain.kullback_leibler(plain.standardised(s), plain.standardised(t), 2.0),
    "teacher-KD": lambda s, y, cos, t: plain.cross_entropy(cos / 0.07, ROWS) + 5 * (1 - cos.diagonal()).mean(),
    "feature-KD": lambda s, y, cos, t: 5 * (1 - cos.diagonal()).mean(),
    "embed-KD": lambda s, y, cos, t: plain.soft_cross_entropy(cos / 0.07, y),
}
"""The second terms of recipe `modern`, of scores, targets [B, C], cosines with the teacher's vectors, its scores."""


def test_two_scores_are_not_standardised():
    """Their z-scores are +-1 over the square root of 2, whatever they are: nothing would be learnt from a teacher."""
    recipe = recipes.get("modern")
    student, teacher = torch.tensor([[0.3, -0.2]], requires_grad=True), torch.tensor([[2.0, 0.5]])
    found = losses.distillation(student, teacher, recipe)
    assert found.item() == pytest.approx(plain.kullback_leibler(student, teacher, 2.0).item(), rel=1e-5)
    found.backward()
    assert student.grad.abs().min() > 0.1


@pytest.mark.parametrize("train_type", MODERN)
def test_losses_of_modern_are_the_plain_formulas(train_type, batch):
    recipe, method = recipes.get("modern-full"), methods.get(train_type)
    student, _ = trained_and_plain("corrected")
    outputs: Outputs = student(batch["images"])
    labels = torch.nn.functional.one_hot(batch["labels"], CLASSES).double()
    if not method.is_per_image:  # only these are trained on mixed images
        labels = 0.7 * labels + 0.3 * labels.flip(0)
    signal = None if method.signal == "nothing" else batch[method.signal]
    found = method.loss(student, outputs, labels if not method.is_per_image else batch["labels"], signal, recipe)
    projected = student.cluster_projection(outputs.embedding)
    cosines = plain.cosines(projected, batch["prototypes" if train_type == "embed-KD" else "embeddings"])
    second = MODERN[train_type](outputs.logits, labels, cosines, batch["scores"])
    torch.testing.assert_close(found["loss"], plain.soft_cross_entropy(outputs.logits, labels) + second)


def test_the_nd_term_of_a_mixed_target_is_the_mixture_of_its_classes(batch):
    method, recipe = methods.get("embed-KD-nd"), recipes.get("modern-full")
    student, _ = trained_and_plain("corrected")
    outputs, prototypes = student(batch["images"]), batch["prototypes"]
    ones = torch.nn.functional.one_hot(batch["labels"], CLASSES).double()

    def term(labels):
        return method.loss(student, outputs, labels, prototypes, recipe)["direction"]

    torch.testing.assert_close(term(ones), term(batch["labels"]))
    mixed = 0.7 * term(batch["labels"]) + 0.3 * term(batch["labels"].flip(0))
    torch.testing.assert_close(term(0.7 * ones + 0.3 * ones.flip(0)), mixed)


def test_relations_of_equal_images_are_finite_and_of_all_others_exact():
    """An image twice in a batch has distance 0 and no direction; float32 of vectors far from 0 loses no angle."""
    from clipkd.plugins.methods.rkd import relations

    vectors = 5 + 0.3 * torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    vectors[3] = vectors[6]
    vectors.requires_grad_()
    distances, cosines = relations(vectors, ~torch.eye(8, dtype=torch.bool))
    (distances.square().sum() + cosines.square().sum()).backward()
    assert distances[3, 6] == 0
    assert vectors.grad.isfinite().all()
    v = vectors.detach().double()
    for j, i, k in permutations([0, 1, 2, 3, 4, 5, 7], 3):  # of the two equal ones, one
        a, b = v[i] - v[j], v[k] - v[j]
        assert float(cosines[j, i, k].detach()) == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)
