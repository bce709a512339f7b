"""`clipkd.load_embeddings`: what is stored, as arrays for anybody."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import clipkd
from clipkd.core.artifacts import building
from clipkd.core.errors import DataError, InputError
from clipkd.data.dataset import LABELS
from clipkd.embeddings import prepare
from clipkd.embeddings.teacher import load
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample, full_views, prototype_views

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def layout(digits_folder, vit_folder, tmp_path_factory) -> Layout:
    """The packed digits, with a teacher's embeddings of every image for both recipes, and of a sample."""
    root = tmp_path_factory.mktemp("stored") / "data"
    shutil.copytree(digits_folder / "datasets", root / "datasets")
    layout, dataset, teacher = Layout(root), datasets.get("digits"), teachers.get(str(vit_folder))
    for name in ("reference", "corrected"):
        views = full_views(recipes.get(name), dataset, students.get("tiny-32"), teacher)
        prepare.embeddings(layout.embeddings(dataset, teacher, views), layout, None, CPU, 256)
    sample = prototype_views(recipes.get("corrected"), dataset, teacher, Sample(5))
    prepare.embeddings(layout.embeddings(dataset, teacher, sample), layout, None, CPU, 256)
    return layout


def test_stored_vectors_are_the_teachers_of_these_images(layout, vit_folder):
    stored = clipkd.load_embeddings("Digits", str(vit_folder), recipe="corrected", data=layout.data)
    spec = teachers.get(str(vit_folder))
    teacher = load(spec, layout.teacher(spec), CPU, "float32")
    images = np.load(layout.data / "datasets/digits/test-images.npy")[:5]
    inputs = teacher.present(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, None, None)
    np.testing.assert_allclose(stored.test[:5], teacher.embed(inputs).numpy(), atol=1e-3)
    assert (stored.train.shape, stored.train.dtype) == ((1442, 1, 16), np.float32)
    assert np.array_equal(stored.labels["test"], np.load(layout.data / "datasets/digits/test-labels.npy"))
    assert stored.classes == [str(number) for number in range(10)]


def test_several_stores_are_told_apart_by_the_recipe(layout, vit_folder):
    with pytest.raises(InputError, match=r"has several: .*; name the recipe"):
        clipkd.load_embeddings("digits", str(vit_folder), data=layout.data)
    one, other = (
        clipkd.load_embeddings("digits", str(vit_folder), recipe, layout.data) for recipe in ("reference", "corrected")
    )
    assert not np.allclose(one.test, other.test)
    with pytest.raises(InputError, match="run `clipkd extract`"):
        clipkd.load_embeddings("cifar10", str(vit_folder), data=layout.data)


def test_labels_are_those_of_the_images_or_none(layout, tmp_path):
    (folder,) = (layout.data / "embeddings/digits").iterdir()
    shutil.copytree(folder, tmp_path / "embeddings/digits" / folder.name)
    stored = clipkd.load_embeddings("digits", folder.name, "corrected", tmp_path)
    assert (stored.labels, stored.classes, len(stored.test)) == (None, None, 355)
    packed = datasets.get("digits")
    labels = np.load(layout.dataset(packed) / "test-labels.npy")
    with building(tmp_path / "datasets/digits", "dataset", packed.identity()) as draft:
        for name in LABELS:
            np.save(draft.path / name, labels)
        draft.facts |= {"content": "of other images", "classes": []}
    with pytest.raises(DataError, match="another content"):
        clipkd.load_embeddings("digits", folder.name, "corrected", tmp_path)
