"""Forms of class prototypes against plain sums, and what a student is told by several vectors per class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clipkd.core.errors import InputError
from clipkd.embeddings import prepare
from clipkd.embeddings.prototypes import without_direction
from clipkd.plugins import prototype_forms, recipes, students
from clipkd.plugins.methods import _losses as losses
from clipkd.plugins.students._vit import build_student
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.spec import cells
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import Sample
from tests.warm import clipkd

CPU = torch.device("cpu")


@pytest.fixture
def cloud() -> tuple[np.ndarray, np.ndarray]:
    """Three classes, each of two clumps in opposite directions, in five dimensions."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    clumps = generator.normal(size=(3, 2, 5)) * 6
    vectors = clumps[labels, np.tile([0, 1], 30)] + generator.normal(size=(60, 5)) * 0.1
    return vectors.astype(np.float32), labels


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(sum(value * value for value in vector))


def test_mean_and_unit_mean(cloud):
    vectors, labels = cloud
    for number in range(3):
        mine = [vector.astype(np.float64) for vector, label in zip(vectors, labels, strict=True) if label == number]
        mean = prototype_forms.get("mean").prototypes(vectors, labels, 3)["prototypes"][number]
        np.testing.assert_allclose(mean, sum(mine) / len(mine), rtol=1e-6)
        units = prototype_forms.get("unit-mean").prototypes(vectors, labels, 3)["prototypes"][number]
        np.testing.assert_allclose(units, unit(sum(unit(vector) for vector in mine)), rtol=1e-5)


def test_gaussian_has_mean_and_deviation(cloud):
    vectors, labels = cloud
    made = prototype_forms.get("gaussian").prototypes(vectors, labels, 3)
    for number in range(3):
        mine = vectors[labels == number].astype(np.float64)
        np.testing.assert_allclose(made["prototypes"][number], mine.mean(axis=0), rtol=1e-5)
        variance = ((mine - mine.mean(axis=0)) ** 2).sum(axis=0) / len(mine)
        np.testing.assert_allclose(made["deviation"][number] ** 2, variance, rtol=1e-5)


def test_kmeans_finds_the_clumps(cloud):
    vectors, labels = cloud
    made = prototype_forms.get("kmeans-2").prototypes(vectors, labels, 3)["prototypes"]
    assert made.shape == (3, 2, 5)
    for number in range(3):
        mine = vectors[labels == number]
        wanted = sorted([unit(mine[::2].mean(axis=0)), unit(mine[1::2].mean(axis=0))], key=lambda centre: centre[0])
        np.testing.assert_allclose(made[number], wanted, atol=0.01)
    again = prototype_forms.get("kmeans-2").prototypes(vectors, labels, 3)["prototypes"]
    assert (again == made).all()
    # The control: one centre per class lies between the clumps, near neither.
    single = prototype_forms.get("kmeans-1").prototypes(vectors, labels, 3)["prototypes"]
    assert np.abs(single[:, 0] - made[:, 0]).max() > 0.3


@pytest.mark.parametrize("name", ["kmeans", "kmeans-0", "kmeans-x", "kmeans-2-2", "means", ""])
def test_a_name_that_is_none(name):
    with pytest.raises(InputError, match="prototype form"):
        prototype_forms.get(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("kmean-4", "kmeans-4"), ("kmaens-16", "kmeans-16"), ("mena", "mean"), ("unitmean", "unit-mean")],
)
def test_a_suggested_form_is_one(name, meant):
    with pytest.raises(InputError, match=f"did you mean '{meant}'"):
        prototype_forms.get(name)
    assert prototype_forms.get(meant).name == meant


def test_as_many_centres_as_images_at_most():
    for form, per_class in (("kmeans-10", 10), ("kmeans-500", "all"), ("mean", 1)):
        prototype_forms.refuse_too_few(form, per_class)
    with pytest.raises(InputError, match="'kmeans-11' makes 11 vectors per class of 10 images per class"):
        prototype_forms.refuse_too_few("kmeans-11", 10)


def test_too_few_images_for_so_many_centres(cloud):
    with pytest.raises(InputError, match="needs 21 images per class, one has 20"):
        prototype_forms.get("kmeans-21").prototypes(*cloud, 3)


def test_several_vectors_a_class_are_an_even_mixture():
    recipe = recipes.get("corrected")
    torch.manual_seed(0)
    student = build_student(students.get("tiny-32"), 3, 5, recipe).double()
    embedding, prototypes = torch.randn(4, student.classifier.in_features).double(), torch.randn(3, 2, 5).double()
    found = losses.class_similarity(student, embedding, prototypes, recipe)
    projected = student.cluster_projection(embedding).detach()
    for row in range(4):
        for number in range(3):
            terms = []
            for centre in prototypes[number]:
                cosine = float(projected[row] @ centre) / float(projected[row].norm() * centre.norm())
                terms.append(math.exp(cosine * min(100.0, math.exp(student.logit_scale.item()))))
            assert float(found[row, number]) == pytest.approx(math.log(sum(terms) / 2), rel=1e-9)
    twice = prototypes[:, :1].expand(3, 2, 5)
    once = losses.class_similarity(student, embedding, prototypes[:, 0], recipe)
    torch.testing.assert_close(losses.class_similarity(student, embedding, twice, recipe), once)


def signal_of(layout: Layout, teacher: str, train_type: str):
    cell = cells.Cell("corrected", "digits", "tiny-32", teacher, train_type, 0)
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    signal = open_teacher_targets(job)
    batch = next(iter(open_batches(job, signal).epoch(8, False, torch.Generator().manual_seed(0))))
    return signal, batch, job


def test_a_drawn_class_vector_has_the_stored_distribution(digits_folder, vit_folder):
    layout = Layout(digits_folder, sample=Sample("all"), form="gaussian")
    signal, batch, job = signal_of(layout, str(vit_folder), "embed-KD")
    torch.manual_seed(0)
    drawn = torch.stack([signal(batch) for _ in range(4000)])
    folder, _ = layout.prototypes(job.cell)
    mean, deviation = np.load(folder / "prototypes.npy"), np.load(folder / "deviation.npy")
    np.testing.assert_allclose(drawn.mean(dim=0), mean, atol=0.1 * deviation.max())
    np.testing.assert_allclose(drawn.std(dim=0), deviation, rtol=0.1, atol=1e-6)
    onehot, batch, _ = signal_of(layout, str(vit_folder), "embed-KD-onehot")
    assert torch.equal(onehot(batch), onehot(batch)), "one-hot vectors have nothing of the classes"


def test_all_images_of_a_class(digits_folder, vit_folder):
    layout = Layout(digits_folder, sample=Sample("all"))
    _, _, job = signal_of(layout, str(vit_folder), "embed-KD")
    folder = layout.sample_embeddings(job.cell).folder
    rows = np.load(folder / "sample-rows.npy")
    assert sorted(rows) == sorted(job.dataset.training)
    assert folder != Layout(digits_folder).sample_embeddings(job.cell).folder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["kmeans-3", pytest.param("gaussian", marks=pytest.mark.long)])
def test_a_student_trains_with_any_form(form, digits_folder, vit_folder, tmp_path):
    names = ["--dataset-name", "digits", "--teacher-model", str(vit_folder), "--student", "tiny-32"]
    flags = ["--train-type", "embed-KD", "--epochs", "1", "--batch-size", "256", "--threads", "1", "--per-class", "9"]
    places = ["--data", digits_folder, "--log-folder", tmp_path / "run"]
    clipkd("train", *names, *flags, *places, "--prototype-form", form)
    assert (tmp_path / "run/metrics.json").exists()


@pytest.mark.parametrize("form", ["unit-mean", "kmeans-2"])
def test_a_vector_without_a_direction_is_said_in_our_words(form, cloud):
    vectors, labels = cloud
    made = prototype_forms.get(form).prototypes(np.where(np.arange(60)[:, None] == 25, 0, vectors), labels, 3)
    assert without_direction(made) == "prototypes of class 1 (counted from 0) are zero or not finite,"
