"""The audit accepts a right store, and refuses one that is wrong though every hash fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from clipkd.cli import main
from clipkd.core import artifacts
from clipkd.embeddings import prepare
from clipkd.embeddings.audit import compared
from clipkd.spec import cells, class_names
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample
from tests import checkpoints
from tests.conftest import save_vit
from tests.photos import save_photos

pytestmark = pytest.mark.usefixtures("mirrored_digits")

CPU = torch.device("cpu")
ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def made(digits_folder, vit_folder, tmp_path_factory) -> Path:
    """Full and sample stores of both recipes, in both formats of two bytes and the exact one."""
    data = tmp_path_factory.mktemp("audit") / "data"
    shutil.copytree(digits_folder / "datasets", data / "datasets")
    for recipe, dtype in (("corrected", "int16"), ("reference", "float16"), ("corrected", "float32")):
        layout = Layout(data, dtype, Sample(4))
        for train_type in ("teacher-KD", "embed-KD"):
            cell = cells.Cell(recipe, "digits", "tiny-32", str(vit_folder), train_type, 0)
            prepare.for_training(cell, layout, CPU, 100)
    return data


@pytest.fixture
def data(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def audit(data: Path, teacher: Path) -> int:
    return main(["audit", "digits", str(teacher), "--data", str(data), "--images", "24", "--device", "cpu"])


def store(data: Path, array: str) -> Path:
    return next(path.parent for path in sorted(data.rglob(f"{array}.npy")) if "-" not in path.parent.name)


def reseal(folder: Path, array: str, change) -> None:
    """Change a stored array and write a manifest that fits it."""
    values = np.load(folder / f"{array}.npy")
    np.save(folder / f"{array}.npy", change(values))
    manifest = artifacts.read_manifest(folder)
    manifest["files"][f"{array}.npy"] = artifacts.entry_of(folder / f"{array}.npy")
    artifacts.write_manifest(folder, *(manifest[name] for name in ("kind", "identity", "facts", "files")))


def test_right_stores_pass(data, vit_folder, capsys):
    assert audit(data, vit_folder) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6
    assert all(line.endswith(": right") for line in said)
    # 24 images in two views and 24 test images, or 24 images of a sample.
    assert sorted(int(line.split(" views looked")[0].rsplit(" ", 1)[1]) for line in said) == [24] * 3 + [72] * 3


WRONG = {
    "mirrored views swapped": ("train", lambda values: values[:, ::-1].copy()),
    "rows moved by one": ("train", lambda values: np.roll(values, 1, axis=0)),
    "mirrored view missing": ("train", lambda values: values[:, [0, 0]]),
    "another class's vectors": ("sample", lambda values: np.roll(values, 4, axis=0)),
    "noise": ("test", lambda values: (values * 1.02).astype(values.dtype)),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_store_fails(name, data, vit_folder, capsys):
    """Each store that holds the array is changed, in every format; the others must stay right."""
    array, change = WRONG[name]
    folders = sorted(path.parent for path in data.rglob(f"{array}.npy") if "-" not in path.parent.name)
    assert len(folders) == 3
    for folder in folders:
        reseal(folder, array, change)
    assert main(["verify", str(data)]) == 0, "every hash fits"
    capsys.readouterr()
    assert audit(data, vit_folder) == 3
    said = capsys.readouterr()
    wrong = [line for line in said.out.splitlines() if "WRONG" in line]
    assert sorted(line.partition(": ")[0] for line in wrong) == [str(folder) for folder in folders]
    assert said.out.count(": right") == 3
    assert said.out.count(f"differ: {array}[") == 3
    assert "delete them" in said.err


def test_another_teacher_has_nothing_stored(data, tmp_path, capsys):
    save_vit(tmp_path / "toy-vit", num_hidden_layers=1)
    assert audit(data, tmp_path / "toy-vit") == 2
    assert "no embeddings of Digits by teacher" in capsys.readouterr().err


def test_a_damaged_store_is_named(data, vit_folder, capsys):
    path = store(data, "train") / "train.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert audit(data, vit_folder) == 3
    assert f"{path} is damaged" in capsys.readouterr().err
    assert json.loads((path.parent / "manifest.json").read_text())["kind"] == "embeddings"


@pytest.fixture(scope="module")
def told(digits_folder, tmp_path_factory) -> tuple[Path, Path]:
    """Stores of what a text tower says of the digits: by their own names and by names that are given."""
    data, clip = tmp_path_factory.mktemp("told") / "data", tmp_path_factory.mktemp("clip") / "clip"
    shutil.copytree(digits_folder / "datasets", data / "datasets")
    checkpoints.save("clip", clip)
    templates = ("a photo of a {}.", "this is the {}.")
    for dtype, given in (
        ("int16", None),
        ("float32", ENGLISH),
        ("float32", dict(zip("0123456789", ENGLISH, strict=True))),
    ):
        named = (("digits", class_names.read(given, "here")),) if given else ()
        layout = Layout(data, dtype, templates=templates, class_names=named)
        cell = cells.Cell("corrected", "digits", "tiny-32", f"{clip}:text", "embed-KD", 0)
        prepare.for_training(cell, layout, CPU)
    return data, clip


@pytest.fixture
def texts(told, tmp_path) -> tuple[Path, Path]:
    return Path(shutil.copytree(told[0], tmp_path / "data")), told[1]


def audit_texts(data: Path, clip: Path) -> int:
    return main(["audit", "digits", f"{clip}:text", "--data", str(data), "--images", "4", "--device", "cpu"])


def test_right_stores_of_class_names_pass(texts, capsys):
    assert audit_texts(*texts) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    for line in said:
        assert "prompts of 4 of 10 class names, 8 read again" in line
        assert line.endswith(": right")


WRONG_TEXTS = {
    "another class's vectors": lambda values: np.roll(values, 2, axis=0),
    "another template's vectors": lambda values: np.roll(values, 1, axis=0),
    "noise": lambda values: (values * 1.02).astype(values.dtype),
}


@pytest.mark.parametrize("name", WRONG_TEXTS)
def test_a_wrong_store_of_class_names_fails(name, texts, capsys):
    data, clip = texts
    folder = store(data, "sample")
    reseal(folder, "sample", WRONG_TEXTS[name])
    assert main(["verify", str(data)]) == 0, "every hash fits"
    capsys.readouterr()
    assert audit_texts(data, clip) == 3
    said = capsys.readouterr()
    (line,) = (line for line in said.out.splitlines() if "WRONG" in line)
    assert str(folder) in line
    assert "differ: 'a photo of a " in said.out
    assert "delete them" in said.err


@pytest.mark.parametrize("what", ["names", "labels"])
def test_a_store_of_other_names_or_labels_fails(what, texts, capsys):
    data, clip = texts
    folder = store(data, "sample")
    if what == "labels":
        reseal(folder, "sample-labels", lambda labels: labels[::-1].copy())
    else:
        manifest = artifacts.read_manifest(folder)
        manifest["facts"]["class_names"] = ["zebra", *manifest["facts"]["class_names"][1:]]
        artifacts.write_manifest(folder, *(manifest[name] for name in ("kind", "identity", "facts", "files")))
    assert audit_texts(data, clip) == 3
    assert f"{folder} is wrong" in capsys.readouterr().err


WIDE, NARROW = np.full(4, 100.0), np.full(4, 1e-3)
"""Deviations of the dimensions: where they are wide no error counts, where they are narrow every one does."""
VECTOR = np.array([[3.0, 4.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("precision", "deviation", "direction", "bound"),
    [
        # In one dimension, which hardly differs between images; the length of the vector is 5.
        ("float32", NARROW, [0, 0, 1, 0], 0.02 * 1e-3),
        ("float16", NARROW, [0, 0, 1, 0], 0.1 * 1e-3),
        # Along the vector, which turns it by nothing.
        ("float32", WIDE, [0.6, 0.8, 0, 0], 0.004 * 5),
        ("bfloat16", WIDE, [0.6, 0.8, 0, 0], 0.15 * 5),
        # Across it: by the angle whose cosine is 0.99.
        ("bfloat16", WIDE, [0, 0, 0, 1], 5 * np.tan(np.arccos(0.99))),
    ],
)
def test_each_bound_of_an_audit_holds_alone(precision, deviation, direction, bound):
    """The error of one dimension, the length of a difference, and the angle."""
    for share, is_wrong in ((0.99, False), (1.01, True)):
        stored = VECTOR + share * bound * np.array([direction])
        assert compared(stored, VECTOR, deviation, precision)[3].tolist() == [is_wrong]


def test_a_teacher_that_was_trained_on_images_of_ones_own_is_audited(tmp_path, capsys):
    """Its store is found, by the name that it is extracted with."""
    photos, data, name = save_photos(tmp_path / "photos"), tmp_path / "data", "trained:test_resnet@32?epochs=1"
    places = ["--dataset-source", str(photos), "--data", str(data), "--device", "cpu"]
    words = ["extract", "--dataset-name", "flowers", "--teacher-model", name, "--student", "tiny-32"]
    assert main([*words, "--views", "full", "--recipe", "reference", *places]) == 0
    capsys.readouterr()
    assert main(["audit", "flowers", name, *places]) == 0
    assert capsys.readouterr().out.count(": right\n") == 1
