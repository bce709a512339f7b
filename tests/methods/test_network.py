"""The student: names, sizes and forward pass of the released code."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from clipkd.core.errors import InputError
from clipkd.plugins import recipes, students
from clipkd.plugins.students import StudentSpec
from clipkd.plugins.students import _vit as network
from clipkd.plugins.students._saved import student_from
from clipkd.plugins.students._vit import Masks, Student, build_student
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
    built = Student(students.get(student), classes, teacher)
    assert sum(value.numel() for value in built.parameters()) == parameters


def test_the_large_student_has_the_published_memory():
    built = Student(students.get("large-32"), 100, 1024)
    parameters = sum(value.numel() for value in built.parameters())
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


def test_dropout_falls_on_attention_weights_only(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(Masks, "draw", lambda masks, share, shape: (torch.zeros(shape, dtype=torch.bool), share))
    student = Student(StudentSpec("toy", 16, 4, 24, 1, 4), 5).double()
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


def gradients(module: torch.nn.Module, outputs: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradient of a number that depends on every output, by parameter."""
    module.zero_grad()
    embedding, probabilities = outputs
    weights = torch.linspace(-1, 1, embedding.numel(), dtype=embedding.dtype).view_as(embedding)
    ((embedding * weights).sum() + probabilities[:, 0].log().sum()).backward()
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


def pair() -> tuple[plain.PlainStudent, Student, torch.Tensor]:
    """Return the plain and the fast student with equal weights, and a batch, in float64."""
    torch.manual_seed(2)
    released = plain.PlainStudent(32, 8, 64, 3, 4, 10, 48).double()
    student = Student(StudentSpec("toy", 32, 8, 64, 3, 4), 10, 48).double()
    student.load_state_dict(released.state_dict(), strict=True)
    return released, student, torch.randn(5, 3, 32, 32, dtype=torch.float64)


def told(student: Student, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = student(images)
    return outputs.embedding, outputs.logits.softmax(dim=1)


def compare(released: plain.PlainStudent, student: Student, images: torch.Tensor) -> None:
    wanted = gradients(released, released(images))
    found = gradients(student, told(student, images))
    assert wanted.keys() == found.keys()
    assert len(found) > 40
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11, msg=name)


def test_gradients_are_the_plain_students():
    released, student, images = pair()
    compare(released.eval(), student.eval(), images)
    with torch.no_grad():
        student.transformer.resblocks[0].mlp.c_fc.bias[0] += 1e-6
    with pytest.raises(AssertionError):
        compare(released, student, images)


def test_gradients_with_the_same_dropout_are_the_plain_students(monkeypatch):
    """The plain student gets the masks that the student drew: what is compared is where a mask falls, and that no
    other one does."""
    released, student, images = pair()
    drawn, turn = [], iter(())
    real = Masks.draw

    def draw(masks, share, shape):
        mask, kept = real(masks, share, shape)
        assert kept == pytest.approx(0.9, abs=2**-17)
        drawn.append(mask.clone())
        return drawn[-1], 0.9

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
        assert (attn_mask, is_causal, dropout_p) == (None, False, 0.1)
        weights = torch.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, dim=-1)
        mask = torch.zeros_like(weights)
        ours = next(turn)
        mask[:, :, : ours.shape[2]] = ours  # the last block draws for the class token only: nothing else is read
        return weights * mask / (1 - dropout_p) @ value

    monkeypatch.setattr(Masks, "draw", draw)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    released.train(), student.train()
    found = gradients(student, told(student, images))
    assert [tuple(mask.shape) for mask in drawn] == [(5, 4, 17, 17), (5, 4, 17, 17), (5, 4, 1, 17)]
    turn = iter(drawn)
    wanted = gradients(released, released(images))
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11, msg=name)
    drawn[1][0, 0, 0, :] ^= True
    turn = iter(drawn)
    wanted = gradients(released, released(images))
    assert not torch.allclose(wanted["conv1.weight"], found["conv1.weight"], rtol=1e-6), "another mask must show"


def test_masks_keep_the_right_share_and_are_their_own_generators():
    shapes = [(50, 4, 9, 9), (50,), (50, 3, 1, 9)]

    def drawn(*seeds):
        """Return three masks of as many students as there are seeds."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        masks = Masks(generators, sum(map(math.prod, shapes)), torch.device("cpu"))
        return [masks.draw(share, (len(seeds) * shape[0], *shape[1:]))
                for share, shape in zip((0.9, 0.5, 0.7), shapes, strict=True)]  # fmt: skip

    together, first, second = drawn(1, 2), drawn(1), drawn(2)
    for share, (mask, kept), (one, _), (two, _) in zip((0.9, 0.5, 0.7), together, first, second, strict=True):
        assert kept == pytest.approx(share, abs=2**-17)
        assert mask.float().mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / mask.numel()) ** 0.5)
        assert torch.equal(mask, torch.cat([one, two]))
        assert not torch.equal(one, two)
    # Independent masks agree in 0.9 * 0.7 + 0.1 * 0.3 = 0.66 of their numbers; of the same draws, in 0.8.
    assert first[0][0].flatten()[: 50 * 3 * 9].eq(first[2][0].flatten()).float().mean() < 0.73


def test_each_of_a_masks_numbers_is_drawn_evenly():
    """All 2^16 values come, each as often: a share is kept to within 2^-17, not to within that of fewer bits."""
    numbers = Masks([torch.Generator().manual_seed(0)], 2**22, torch.device("cpu")).numbers.flatten().long()
    counts = (numbers + 2**15).bincount(minlength=2**16).double()
    assert len(counts) == 2**16
    squares = ((counts - 64) ** 2 / 64).sum().item()  # chi-squared with 2^16 - 1 degrees of freedom
    assert abs(squares - (2**16 - 1)) < 5 * (2 * (2**16 - 1)) ** 0.5
    neighbours = torch.corrcoef(torch.stack([numbers[:-1].double(), numbers[1:].double()]))[0, 1].item()
    assert abs(neighbours) < 5 / len(numbers) ** 0.5


def test_patches_are_a_convolutions_inputs():
    images, convolution = torch.randn(3, 3, 16, 16).double(), torch.nn.Conv2d(3, 7, 4, 4, bias=False).double()
    wanted = convolution(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(network.patches(images, 4) @ convolution.weight.flatten(1).T, wanted)


@pytest.mark.parametrize("width", [96, (96, 64)])
def test_a_student_with_a_bias_is_read_back(width, tmp_path):
    student = build_student(students.get("tiny-32"), 10, width, recipes.get("corrected"), learns_bias=True)
    added = (
        student.state_dict().keys()
        - build_student(students.get("tiny-32"), 10, width, recipes.get("corrected")).state_dict().keys()
    )
    assert added == ({"logit_bias"} if width == 96 else {"logit_biases.0", "logit_biases.1"})
    found = student_from(student.state_dict(), students.get("tiny-32"), tmp_path)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("name", ["small-32", "timm:vit_tiny_patch16_224@32"])
def test_drop_path_leaves_out_branches_of_some_images_and_keeps_their_mean(name):
    recipe = replace(recipes.get("corrected"), drop_path=0.4)
    student = build_student(students.get(name), 10, None, recipe)
    plain = build_student(students.get(name), 10, None, recipes.get("corrected"))
    assert student.state_dict().keys() == plain.state_dict().keys()
    if name == "small-32":
        assert [block.drop_path for block in student.transformer.resblocks] == pytest.approx([0, 0.4 / 3, 0.8 / 3, 0.4])
        last, tokens = student.transformer.resblocks[-1], torch.ones(500, 3, 128)
        found, again = (
            last.dropped(tokens, Masks([torch.Generator().manual_seed(0)], 500, tokens.device)) for _ in range(2)
        )
        assert torch.equal(last.dropped(tokens, None), tokens), "nothing is dropped in evaluation"
        half = last.dropped(tokens.bfloat16(), Masks([torch.Generator().manual_seed(0)], 500, tokens.device))
        assert torch.equal(half, found.bfloat16()), "the factor is not rounded before it is used"
    else:
        last, tokens = student.body.blocks[-1].drop_path2, torch.ones(500, 3, 128)
        student.generators = [torch.Generator().manual_seed(0)]
        found = last(tokens)
        student.generators = [torch.Generator().manual_seed(0)]
        again = last(tokens)
        assert torch.equal(last.eval()(tokens), tokens), "nothing is dropped in evaluation"
    assert torch.equal(found, again), "the run's generator draws it"
    assert found.unique().tolist() == pytest.approx([0, 1 / 0.6], rel=1e-4)
    assert torch.equal(found, found[:, :1, :1].expand_as(found)), "an image's branch is left out as a whole"
    assert found.mean().item() == pytest.approx(1, abs=0.1)


def test_a_student_without_blocks_says_that_it_has_no_drop_path(capsys):
    recipe = replace(recipes.get("corrected"), drop_path=0.1)
    build_student(students.get("timm:vgg11@32"), 10, None, recipe)
    assert "vgg11 has no drop path; 0.1 is left out" in capsys.readouterr().err


def test_switches_at_their_default_leave_identities_as_they_were():
    corrected = recipes.get("corrected")
    assert "drop_path" not in corrected.switches()
    assert replace(corrected, drop_path=0.1).switches() == corrected.switches() | {"drop_path": 0.1}
