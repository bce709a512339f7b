"""The student: names, sizes and forward pass of the released code."""

from __future__ import annotations

import pytest
import torch

from clipkd import recipes, students
from clipkd.errors import InputError
from clipkd.students import StudentSpec
from clipkd.training.network import Student, build_student
from tests.methods import plain


@pytest.mark.parametrize(
    ("student", "classes", "teacher", "parameters"),
    [
        ("base-32", 100, 1024, 5_056_868),
        ("base-32", 10, None, 4_771_338),
        ("base-32", 100, None, 4_794_468),
        ("base-32", 10, 768, 4_771_338 + 196_864),
        ("base-32", 10, 1024, 4_771_338 + 262_400),
    ],
)
def test_parameter_counts_are_the_published_ones(student, classes, teacher, parameters):
    network = Student(students.get(student), classes, teacher)
    assert sum(value.numel() for value in network.parameters()) == parameters


def test_the_large_student_has_the_published_memory():
    network = Student(students.get("large-32"), 100, 1024)
    parameters = sum(value.numel() for value in network.parameters())
    assert parameters == pytest.approx(32.2e6, rel=0.005)
    assert 4e-9 * parameters == pytest.approx(0.129, abs=0.004)


def test_a_released_checkpoint_loads_and_gives_the_same_outputs():
    torch.manual_seed(1)
    released = plain.PlainStudent(32, 4, 256, 6, 8, 100, 1024).double().eval()
    student = build_student(students.get("base-32"), 100, 1024, recipes.get("reference")).double().eval()
    student.load_state_dict(released.state_dict(), strict=True)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        outputs = student(images)
        embedding, probabilities = released(images)
    torch.testing.assert_close(outputs.embedding, embedding, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(outputs.logits.softmax(dim=1), probabilities, rtol=1e-10, atol=1e-12)


def test_dropout_falls_on_attention_weights_only():
    torch.manual_seed(0)
    dropped = StudentSpec("toy", 16, 4, 24, 1, 4, attention_dropout=0.999999)
    student = Student(dropped, 5).double()
    student.train()
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        # With all attention dropped a block adds only its output bias (zero at first) and its MLP.
        x = student.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([student.class_embedding.expand(3, 1, -1), x], dim=1) + student.positional_embedding
        x = student.ln_pre(x)
        block = student.transformer.resblocks[0]
        x = x + block.mlp(block.ln_2(x))
        torch.testing.assert_close(student(images).embedding, student.ln_post(x[:, 0]))
    student.eval()
    with torch.no_grad():
        assert not torch.allclose(student(images).embedding, student.ln_post(x[:, 0]))
        torch.testing.assert_close(student(images).logits, student(images).logits, rtol=0, atol=0)


def test_recipes_decide_projection_and_scale():
    spec = students.get("tiny-32")
    reference = build_student(spec, 10, 96, recipes.get("reference"))
    corrected = build_student(spec, 10, 96, recipes.get("corrected"))
    alone = build_student(spec, 10, None, recipes.get("corrected"))
    assert reference.cluster_projection.weight.shape == (64, 96)
    assert corrected.cluster_projection.weight.shape == (96, 64)
    assert "logit_scale" not in reference.state_dict()
    assert corrected.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert not {"cluster_projection.weight", "logit_scale"} & alone.state_dict().keys()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"patch_size 5 does not divide image_size 32"):
        StudentSpec("odd", 32, 5, 64, 2, 4)
    with pytest.raises(InputError, match=r"heads 5 does not divide width 64"):
        StudentSpec("odd", 32, 4, 64, 2, 5)
