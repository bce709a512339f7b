"""Thumbnails: torchvision's Resize of the packed images, squares for evaluation, an artefact like any other."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.cli import main
from clipkd.core import artifacts
from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import DataError
from clipkd.data import dataset as packed
from clipkd.data.thumbnails import open_thumbnails, thumbnail_sizes
from clipkd.embeddings import prepare
from clipkd.plugins import datasets
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests.photos import save_photos


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data folder with packed photographs and their thumbnails at 32 px."""
    folder = tmp_path_factory.mktemp("thumbnails")
    photos = save_photos(folder / "photos", least=20)
    spec, layout = datasets.get("photos", str(photos)), Layout(folder / "data")
    prepare.thumbnails(spec, 32, layout, str(photos))
    return spec, layout


def test_they_are_torchvisions_resize_and_pils_squares(made):
    from clipkd.core.vision import torchvision

    spec, layout = made
    dataset = packed.open_dataset(spec, layout.dataset(spec))
    folder, identity = layout.thumbnails(spec, 32)
    found = open_thumbnails(open_artifact(folder, "thumbnails", identity))
    resize = torchvision.transforms.Resize(32)
    assert len(found.train) == 40
    sizes = thumbnail_sizes(dataset.sizes("train"), 32)
    for row in range(40):
        expected = np.asarray(resize(Image.fromarray(dataset.image("train", row))))
        np.testing.assert_array_equal(found.train[row], expected)
        assert tuple(sizes[row]) == expected.shape[:2]
    assert (np.minimum(*dataset.sizes("train").T) < 32).any(), "small images are enlarged"
    for images, split, rows in (
        (found.test, "test", range(12)),
        (found.validation, "train", dataset.validation),
    ):
        assert len(images) == len(rows) > 0
        for image, row in zip(images, rows, strict=True):
            expected = np.asarray(
                Image.fromarray(dataset.image(split, row)).resize((32, 32), Image.Resampling.BILINEAR)
            )
            np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("size", [(33, 47), (100, 31), (32, 32), (1, 3), (375, 500), (500, 333)])
def test_sizes_are_torchvisions(size):
    from clipkd.core.vision import torchvision

    resized = torchvision.transforms.Resize(32)(Image.new("RGB", size[::-1]))
    assert thumbnail_sizes(np.array([size]), 32).tolist() == [list(resized.size[::-1])]


def test_labels_are_opened_without_the_images(made, tmp_path):
    spec, layout = made
    folder = shutil.copytree(layout.dataset(spec), tmp_path / "photos")
    (folder / "train-images.npy").unlink()
    assert len(packed.open_dataset(spec, folder, with_images=False).train_labels) == 40
    with pytest.raises(DataError, match=r"train-images\.npy is missing"):
        packed.open_dataset(spec, folder)
    (folder / "train-labels.npy").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"train-labels\.npy is damaged"):
        packed.open_dataset(spec, folder, with_images=False)


def test_training_wants_no_packed_images_where_thumbnails_are_there(made, tmp_path):
    _spec, layout = made
    data = shutil.copytree(layout.data, tmp_path / "data")
    (data / "datasets" / "photos" / "train-images.npy").unlink()
    cell = Cell("corrected", "photos", "tiny-32", "none", "supervised", 0, source="not asked")
    there, cpu = Layout(data), torch.device("cpu")
    prepare.for_training(cell, there, cpu)
    job = open_job(cell, Hyperparameters(), there, cpu)
    batches = open_batches(job, open_teacher_targets(job))
    assert len(next(batches.epoch(8, False, torch.Generator())).inputs) == 8
    assert sum(len(labels) for _, labels in batches.evaluation("test", None, 5)) == 12


def test_a_large_dataset_is_hashed_once_on_a_machine(made, tmp_path, monkeypatch):
    spec, layout = made
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("clipkd.core.verified.RACY_SECONDS", 0.0)
    monkeypatch.setattr("clipkd.core.verified.SMALL_BYTES", 0)
    hashed = []
    real = artifacts.sha256
    monkeypatch.setattr(artifacts, "sha256", lambda path: hashed.append(path) or real(path))
    folder, identity = layout.thumbnails(spec, 32)
    for _ in range(2):
        packed.open_dataset(spec, layout.dataset(spec))
        open_artifact(folder, "thumbnails", identity)
    first = len(hashed)
    assert {folder / "train-images.npy", layout.dataset(spec) / "train-images.npy"} <= set(hashed)
    assert first == len(set(hashed)), "each file once"
    monkeypatch.setenv("CLIPKD_VERIFY", "always")
    packed.open_dataset(spec, layout.dataset(spec))
    assert len(hashed) > first, "asked for, it is hashed again"


def test_the_command_makes_them_once_and_refuses_what_needs_none(made, capsys):
    spec, layout = made
    data = ["--data", str(layout.data)]
    assert main(["thumbnails", "photos", "--side", "32", "--dataset-source", "x", *data]) == 0
    assert capsys.readouterr().out.strip() == str(layout.thumbnails(spec, 32)[0])
    assert main(["thumbnails", "digits", "--side", "32", *data]) == 2
    assert "as they are packed" in capsys.readouterr().err
    folder = layout.thumbnails(spec, 32)[0]
    assert folder != layout.thumbnails(spec, 64)[0]
    assert main(["verify", str(layout.data)]) == 0
