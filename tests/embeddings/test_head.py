"""The linear probe against scikit-learn, and a fine-tuned checkpoint's own head."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipkd.core import registry
from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import InputError
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import prepare
from clipkd.embeddings.head import STRENGTHS, accuracies, accuracy, best_probe, fit_probe
from clipkd.embeddings.own_head import OwnHead, own_head_of, passed_over, rows
from clipkd.embeddings.teacher import load
from clipkd.embeddings.vectors import Vectors
from clipkd.export.teacher_store import TeacherStore
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.plugins.teachers import giving
from clipkd.spec import class_names
from clipkd.spec.layout import Layout
from clipkd.spec.views import full_views
from tests.conftest import save_vit

CPU = torch.device("cpu")


def test_the_probe_is_scikit_learns_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 4
    vectors = torch.randn(300, 6, generator=generator) + torch.randn(4, 6, generator=generator)[labels]
    weight, bias = fit_probe(vectors, labels, 4, strength=1e-2)
    standard = (vectors - vectors.mean(0)) / vectors.std(0)
    # scikit-learn's C is the inverse of the penalty on the summed loss.
    theirs = LogisticRegression(C=1 / (1e-2 * 300), max_iter=10_000, tol=1e-8).fit(standard.numpy(), labels.numpy())
    mine = torch.softmax(vectors @ weight.T + bias, dim=1).numpy()
    np.testing.assert_allclose(mine, theirs.predict_proba(standard.numpy()), atol=2e-3)


def test_accuracy_counts_the_label_among_the_best():
    scores = torch.tensor([[3.0, 2, 1], [1, 2, 3], [2, 1, 3]])
    labels = torch.tensor([0, 0, 0])
    assert accuracy(scores, labels) == 1 / 3 or abs(accuracy(scores, labels) - 1 / 3) < 1e-6
    assert abs(accuracy(scores, labels, top=2) - 2 / 3) < 1e-6
    assert accuracy(scores, labels, top=5) == 1.0


def opened(layout, spec, cell_recipe="corrected"):
    dataset = datasets.get("digits")
    views = full_views(recipes.get(cell_recipe), dataset, students.get("tiny-32"), spec)
    store = layout.embeddings(dataset, spec, views)
    prepare.embeddings(store, layout, None, CPU, 256)
    return store


def test_the_head_artefact_is_the_probe_of_training_images_that_are_not_mirrored(
    digits_folder, vit_folder, monkeypatch
):
    known = registry.specs(datasets.__name__)
    monkeypatch.setitem(known, "digits", dataclasses.replace(known["digits"], augmentation="flip"))
    layout = Layout(digits_folder)
    store = opened(layout, teachers.get(str(vit_folder)))
    prepare.head(store, layout, None, CPU)
    head = open_artifact(store.head()[0], "head", store.head()[1])
    embeddings = open_artifact(store.folder, "embeddings", store.identity)
    vectors = Vectors(embeddings, "train")[:]
    assert vectors.shape[1] == 2
    dataset = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    mine = dataset.training  # nothing of the validation split
    layer = fit_probe(
        torch.from_numpy(vectors[mine, 0]), torch.from_numpy(dataset.train_labels[mine]), 10, head.facts["l2"]
    )
    np.testing.assert_allclose(head.array("weight"), layer[0], rtol=1e-3, atol=1e-3)
    scores = TeacherStore(embeddings, head, None).scores()
    right = (scores.argmax(axis=1) == dataset.test_labels).mean()
    assert abs(head.facts["accuracy"]["test"] - right) < 1e-6
    assert head.facts["head"] == "linear probe"
    assert right > 0.5, "even random features of digits are linearly separable to some degree"


NUMBERS = [str(number) for number in range(10)]
MOVED = [NUMBERS[1], NUMBERS[0], *NUMBERS[2:]]


@pytest.mark.parametrize(
    ("count", "names", "words"),
    [
        (10, None, "as digits, but they are unnamed; `head: own` needs a checkpoint that names them"),
        (10, NUMBERS, "it has digits's classes: `head: own`"),
        (10, MOVED, "it has digits's classes: `head: own`"),
        (7, None, "of 7 classes is not used, class scores come from a linear probe; digits has 10 classes"),
        (None, None, ""),
    ],
)
def test_a_classifier_that_is_passed_over_is_named(count, names, words, tmp_path):
    folder = tmp_path / "fine-tuned"
    save_vit(folder, classes=count)
    label(folder, names)
    spec = teachers.get(str(folder))
    own = own_head_of(folder, spec)
    assert (own is None) == (count is None)
    if own is not None:
        assert words in passed_over(own, spec, "digits", NUMBERS)
        assert "not a linear layer" in passed_over(own_head_of(folder, giving(spec, "mean")), spec, "digits", NUMBERS)


def label(folder, names):
    """Write the names of a checkpoint's classes into its config.json."""
    path = folder / "config.json"
    if names is not None:
        labels = {str(number): name for number, name in enumerate(names)}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": labels}))


SPOKEN = [f"the digit {number}" for number in range(10)]
GIVEN = class_names.made(dict(zip(NUMBERS, SPOKEN, strict=True)), "mine.yaml", {})
"""What a user may call the digits."""
MORE = ["plus", *MOVED, "minus"]


@pytest.mark.parametrize(
    ("names", "given", "order"),
    [
        (NUMBERS, None, range(10)),
        (MOVED, None, [1, 0, *range(2, 10)]),
        (MORE, None, [2, 1, *range(3, 11)]),
        ([name.upper().replace(" ", "_") for name in SPOKEN[::-1]], GIVEN, range(9, -1, -1)),
    ],
)
def test_classes_of_an_own_classifier_are_matched_by_name(names, given, order):
    spec = dataclasses.replace(teachers.get("digits-vit-s"), head="own")
    assert rows(OwnHead(len(names), tuple(names), True), spec, "digits", NUMBERS, given) == list(order)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (None, "the checkpoint has none"),
        (OwnHead(10, tuple(NUMBERS), False), "not a linear layer on the embedding"),
        (OwnHead(10, None, True), "nobody named its 10 classes.*id2label"),
        (OwnHead(10, tuple(SPOKEN), True), "no class '0'.*nor 9 others of 10.*class_names: {digits"),
        (OwnHead(11, (*NUMBERS, "3"), True), "two of its classes are called '3'"),
    ],
)
def test_an_own_classifier_of_other_classes_is_refused(head, words):
    spec = dataclasses.replace(teachers.get("digits-vit-s"), head="own")
    with pytest.raises(InputError, match=f"teacher 'digits-vit-s': its own classifier can't score digits: .*{words}"):
        rows(head, spec, "digits", NUMBERS, None)


def test_two_classes_of_a_dataset_that_differ_in_a_stroke_are_one_for_a_classifier():
    spec = dataclasses.replace(teachers.get("digits-vit-s"), head="own")
    with pytest.raises(InputError, match="two of its classes are called 't-shirt'"):
        rows(OwnHead(3, ("cat", "dog", "t shirt"), True), spec, "photos", ["t-shirt", "t_shirt", "cat"], None)


def test_imagenets_ids_are_matched_with_words():
    words = ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    spec = dataclasses.replace(teachers.get("digits-vit-s"), head="own")
    assert rows(OwnHead(2, tuple(words[::-1]), True), spec, "imagenet", ["n01440764", "n01443537"], None) == [1, 0]


def test_scores_of_an_own_classifier_are_in_the_datasets_order(digits_folder, tmp_path):
    """Of two checkpoints that differ in the order of their classes only, the scores are the same."""
    layout, scores = Layout(digits_folder), []
    for names, order in ((NUMBERS, list(range(10))), (MOVED, [1, 0, *range(2, 10)])):
        folder = tmp_path / f"fine-tuned-{names[0]}"
        save_vit(folder, classes=10)
        label(folder, names)
        state = load_file(folder / "model.safetensors")
        state["classifier.bias"] = torch.arange(10.0)
        for name in ("classifier.weight", "classifier.bias"):
            state[name] = state[name][order].contiguous()
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        store = opened(layout, teachers.get(f"{folder}?head=own"))
        prepare.head(store, layout, None, CPU)
        head = open_artifact(store.head()[0], "head", store.head()[1])
        assert (head.facts["head"], head.facts["classes_moved"]) == ("checkpoint", 2 * (names is MOVED))
        embeddings = open_artifact(store.folder, "embeddings", store.identity)
        scores.append(TeacherStore(embeddings, head, None).scores())
    np.testing.assert_array_equal(*scores)


def test_an_own_classifier_of_other_classes_is_refused_before_anything_is_computed(digits_folder, tmp_path):
    folder = tmp_path / "other"
    save_vit(folder, classes=7)
    layout = Layout(digits_folder)
    with pytest.raises(InputError, match="nobody named its 7 classes"):
        opened(layout, teachers.get(f"{folder}?head=own@digits"))
    opened(layout, teachers.get(f"{folder}?head=own@another"))


def test_a_fine_tuned_checkpoint_uses_its_own_head(digits_folder, tmp_path):
    folder = tmp_path / "fine-tuned"
    save_vit(folder, classes=10)
    layout = Layout(digits_folder)
    spec = dataclasses.replace(teachers.get(str(folder)), head_for="digits")
    store = opened(layout, spec)
    prepare.head(store, layout, None, CPU)
    head = open_artifact(store.head()[0], "head", store.head()[1])
    teacher = load(spec, layout.teacher(spec), CPU)
    np.testing.assert_array_equal(head.array("weight"), teacher.head.weight.detach().numpy())
    assert head.facts["head"] == "checkpoint"
    assert store.head()[0] != opened(layout, dataclasses.replace(spec, head_for=None)).head()[0]


def test_the_validation_split_alone_chooses_the_penalty():
    """Labels that the third penalty's probe gets right on validation images, and the last one's on test images."""
    generator = torch.Generator().manual_seed(0)
    vectors = {part: torch.randn(200, 12, generator=generator) for part in ("train", "validation", "test")}
    targets = {"train": torch.randint(0, 4, (200,), generator=generator)}
    fitted = [fit_probe(vectors["train"], targets["train"], 4, strength) for strength in STRENGTHS]
    for part, right in (("validation", 2), ("test", 3)):
        targets[part] = torch.nn.functional.linear(vectors[part], *fitted[right]).argmax(dim=1)
    strength, weight, bias = best_probe(vectors, targets, 4)
    assert strength == STRENGTHS[2]
    assert torch.equal(weight, fitted[2][0])
    assert torch.equal(bias, fitted[2][1])
    each = {
        part: [accuracy(torch.nn.functional.linear(vectors[part], *layer), targets[part]) for layer in fitted]
        for part in vectors
    }
    # Otherwise another split would have chosen the same.
    assert all(each[part].index(max(each[part])) != 2 for part in ("train", "test"))


def test_in_parts_a_probe_is_the_same_but_for_rounding(monkeypatch):
    """Where images times classes are many, their class scores are in memory some at a time."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 4
    vectors = torch.randn(300, 6, generator=generator) + torch.randn(4, 6, generator=generator)[labels]
    weight, bias = fit_probe(vectors, labels, 4, strength=1e-2)
    expected = accuracies(vectors, weight, bias, labels)
    scores = vectors @ weight.T + bias
    assert expected[0] == pytest.approx((scores.argmax(dim=1) == labels).double().mean().item())
    assert expected[1] == 1.0
    monkeypatch.setattr("clipkd.embeddings.head.SCORES", 4 * 70)
    in_parts = fit_probe(vectors, labels, 4, strength=1e-2)
    torch.testing.assert_close(in_parts, (weight, bias), rtol=1e-3, atol=1e-3)
    assert accuracies(vectors, weight, bias, labels) == expected


def test_a_large_layers_probe_remembers_fewer_steps(monkeypatch):
    made = []

    class Noted(torch.optim.LBFGS):
        def __init__(self, *arguments, **options):
            made.append(options["history_size"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(torch.optim, "LBFGS", Noted)
    monkeypatch.setattr("clipkd.embeddings.head.ITERATIONS", 1)
    vectors, labels = torch.randn(8, 1024), torch.arange(8) % 2
    for classes in (2, 1000, 20_000):
        fit_probe(vectors, labels, classes, strength=1e-2)
    assert made[:2] == [100, 100]
    assert 2 * made[2] * 1024 * 20_000 * 4 <= 2 * 1024**3 < 2 * (made[2] + 1) * 1024 * 20_000 * 4
