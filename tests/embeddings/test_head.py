"""The linear probe against scikit-learn, and a fine-tuned checkpoint's own head."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import InputError
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import prepare
from clipkd.embeddings.head import accuracy, fit_probe
from clipkd.embeddings.own_head import own_head_of, passed_over
from clipkd.embeddings.teacher import load
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.plugins.teachers import giving
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


def test_the_head_artefact_scores_every_stored_view(digits_folder, vit_folder):
    layout = Layout(digits_folder)
    store = opened(layout, teachers.get(str(vit_folder)))
    prepare.head(store, layout, None, CPU)
    head = open_artifact(store.head()[0], "head", store.head()[1])
    vectors = Vectors(open_artifact(store.folder, "embeddings", store.identity), "train")[:]
    expected = vectors @ head.array("weight").T + head.array("bias")
    np.testing.assert_allclose(head.array("scores-train"), expected, rtol=1e-4, atol=1e-4)
    dataset = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    right = (head.array("scores-test").argmax(axis=1) == dataset.test_labels).mean()
    assert abs(head.facts["accuracy"]["test"] - right) < 1e-6
    assert head.facts["head"] == "linear probe"
    assert right > 0.5, "even random features of digits are linearly separable to some degree"


NUMBERS = [str(number) for number in range(10)]
MOVED = [NUMBERS[1], NUMBERS[0], *NUMBERS[2:]]


@pytest.mark.parametrize(
    ("count", "names", "words"),
    [
        (10, None, "as many classes as digits: where they are the same in this order, `head_for"),
        (10, NUMBERS, 'digits\'s classes in the same order: `head_for="digits"`'),
        (10, MOVED, "digits's classes, in another order"),
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


def test_a_classifier_of_the_classes_in_another_order_is_refused(digits_folder, tmp_path):
    folder = tmp_path / "fine-tuned"
    save_vit(folder, classes=10)
    label(folder, MOVED)
    layout = Layout(digits_folder)
    store = opened(layout, dataclasses.replace(teachers.get(str(folder)), head_for="digits"))
    with pytest.raises(InputError, match="in another order \\(class 0 is '1' there, '0' here\\)"):
        prepare.head(store, layout, None, CPU)


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
