"""Extraction against a plain use of Hugging Face and PIL, image by image."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.core.artifacts import open_artifact
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import prepare
from clipkd.embeddings.extract import extract
from clipkd.embeddings.teacher import load
from clipkd.embeddings.view_plans import draw, small_classes
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample, full_views, prototype_views
from tests.warm import clipkd

pytestmark = pytest.mark.usefixtures("mirrored_digits")

CPU = torch.device("cpu")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def parts(digits_folder, vit_folder):
    """Layout with exact numbers, dataset, teacher spec and loaded teacher."""
    layout = Layout(digits_folder, dtype="float32", sample=Sample(3, seed=4))
    spec = teachers.get(str(vit_folder))
    prepare.teacher(spec, layout, CPU)
    dataset = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    return layout, dataset, spec, load(spec, layout.teacher(spec), CPU)


def plain_class_token(vit_folder, tensor: torch.Tensor) -> np.ndarray:
    """Return the class token of one normalised image [3, 24, 24], by transformers alone."""
    from clipkd.core.vision import torchvision  # noqa: F401

    from transformers import ViTModel  # isort: skip

    model = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(tensor[None]).last_hidden_state[0, 0].numpy()


def normalise(pixels: np.ndarray, mean, std) -> torch.Tensor:
    scaled = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    return torch.tensor(scaled.transpose(2, 0, 1), dtype=torch.float32)


def resize_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(tensor[None], (24, 24), mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize("recipe", ["reference", "corrected"])
def test_full_views_are_flip_then_normalise_then_resize(recipe, parts, vit_folder):
    layout, dataset, spec, teacher = parts
    views = full_views(recipes.get(recipe), dataset.spec, students.get("tiny-32"), spec)
    store = layout.embeddings(dataset.spec, spec, views)
    before = teacher.forward_passes
    prepare.embeddings(store, layout, None, CPU)
    found = open_artifact(store.folder, "embeddings", store.identity)
    assert found.facts["forward_passes"] == 2 * len(dataset.train_labels) + len(dataset.test_labels)
    assert teacher.forward_passes == before, "the store is made by its own teacher"
    assert found.array("train").shape == (len(dataset.train_labels), 2, 16)
    mean, std = (CLIP_MEAN, CLIP_STD) if recipe == "reference" else ((0.5,) * 3, (0.5,) * 3)
    for row, flip in ((0, 0), (7, 1), (1000, 1)):
        pixels = dataset.image("train", row)[:, ::-1] if flip else dataset.image("train", row)
        expected = plain_class_token(vit_folder, resize_tensor(normalise(pixels, mean, std)))
        np.testing.assert_allclose(found.array("train")[row, flip], expected, rtol=1e-4, atol=1e-5)
    expected = plain_class_token(vit_folder, resize_tensor(normalise(dataset.image("test", 3), mean, std)))
    np.testing.assert_allclose(found.array("test")[3], expected, rtol=1e-4, atol=1e-5)


def test_reference_prototype_views_are_resized_as_8_bit_images_first(parts, vit_folder):
    layout, dataset, spec, _ = parts
    views = prototype_views(recipes.get("reference"), dataset.spec, spec, layout.sample)
    store = layout.embeddings(dataset.spec, spec, views)
    prepare.embeddings(store, layout, None, CPU)
    found = open_artifact(store.folder, "embeddings", store.identity)
    flips, rows = found.array("sample-flips"), found.array("sample-rows")
    assert found.facts["forward_passes"] == 30 == len(rows)
    assert 0 < flips.sum() < 30
    assert not set(rows.tolist()) & set(dataset.validation.tolist())
    tensor_way = []
    for number in (0, int(np.flatnonzero(flips)[0])):
        image = dataset.image("train", rows[number])
        resized = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR))
        pixels = resized[:, ::-1] if flips[number] else resized
        expected = plain_class_token(vit_folder, normalise(pixels, CLIP_MEAN, CLIP_STD))
        np.testing.assert_allclose(found.array("sample")[number], expected, rtol=1e-4, atol=1e-5)
        other = image[:, ::-1] if flips[number] else image
        tensor_way.append(plain_class_token(vit_folder, resize_tensor(normalise(other, CLIP_MEAN, CLIP_STD))))
        assert not np.allclose(tensor_way[-1], expected, rtol=1e-4, atol=1e-5), "the two orders must differ"


def test_the_sample_is_drawn_by_seed_and_is_all_of_a_class_that_is_smaller(parts):
    _, dataset, _, _ = parts
    draws = [draw(dataset, Sample(5, 0), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all()
    assert not (draws[0] == draws[2]).all()
    assert (dataset.train_labels[draws[0]] == np.repeat(np.arange(10), 5)).all()
    assert small_classes(dataset, Sample(5)) == small_classes(dataset, Sample("all")) == ""
    counts = np.bincount(dataset.train_labels[dataset.training])
    middle = int(np.sort(counts)[5])
    drawn = draw(dataset, Sample(middle, 0), np.random.default_rng(0))
    assert (np.bincount(dataset.train_labels[drawn]) == np.minimum(counts, middle)).all()
    assert not set(drawn) & set(dataset.validation)
    said = small_classes(dataset, Sample(middle))
    assert f"{(counts < middle).sum()} of 10 classes have fewer than {middle} training images" in said
    assert f"the fewest {counts.min()} of '{counts.argmin()}'" in said


def test_an_embedding_that_does_not_fit_the_store_is_an_error(parts, tmp_path):
    layout, dataset, spec, teacher = parts
    layout = dataclasses.replace(layout, data=tmp_path, dtype="float16")
    views = prototype_views(recipes.get("corrected"), dataset.spec, spec, layout.sample)
    store = layout.embeddings(dataset.spec, spec, views)
    loud = dataclasses.replace(teacher)
    loud.embed = lambda inputs: torch.full((len(inputs), 16), 1e6)  # type: ignore[method-assign]
    with pytest.raises(Exception, match=r"not finite in float16; try embeddings\.dtype: int16 or float32"):
        extract(store, dataset, loud, 8)
    assert not store.folder.exists()


def test_the_command_line_makes_what_it_needs_once(digits_folder, vit_folder):
    names = ["--dataset-name", "DIGITS", "--teacher-model", vit_folder]
    flags = ["--views", "sample", "--per-class", 2, "--threads", 1, "--data", digits_folder]
    first = clipkd("extract", *names, *flags)
    second = clipkd("extract", *names, *flags)
    assert first.stdout == second.stdout
    assert "through" in first.stderr
    assert second.stderr == ""
