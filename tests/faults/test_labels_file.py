"""Row D18: files of labels that are wrong; and what sound ones, and a folder of images without labels, give."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.core.errors import DataError, InputError
from clipkd.data.dataset import Dataset, prepare_dataset
from clipkd.embeddings import prepare
from clipkd.plugins import datasets
from clipkd.plugins.datasets import _listing
from clipkd.plugins.datasets._labels_file import read_labels
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_job
from clipkd.runs.training import train
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests.faults.checks import fault

CPU = torch.device("cpu")


def images_in(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def flat(root: Path, lines: list[str], header: str = "file,label") -> Path:
    """Write 20 training images in one folder with a file of labels, and a test split in class folders."""
    images_in(root / "train", 20)
    (root / "train/labels.csv").write_text("\n".join([header, *lines]) + "\n")
    for place, name in enumerate(("cat", "dog")):
        images_in(root / "test" / name, 3, 100 + 10 * place)
    return root


def packed(root: Path, data: Path) -> Dataset:
    spec = datasets.get("mine", f"{root}?size=8")
    return prepare_dataset(spec, Layout(data).dataset(spec), f"{root}?size=8")


SOUND = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(10)]
WRONG: dict[str, tuple[list[str], str]] = {
    "unknown file": ([*SOUND, "77.png,cat"], "line 12: there is no image '77.png'"),
    "unknown class": ([*SOUND, "12.png,caat"], r"caat \(.*labels.csv, line 12\); did you mean 'cat'"),
    "no class": ([*SOUND[:3], "3.png,", *SOUND[4:]], "line 5: no class"),
    "no file": ([*SOUND, ",cat"], "line 12: no file"),
    "twice": ([*SOUND, "0.png,cat"], "line 12: '0.png' is in line 2 already"),
    "columns": ([*SOUND, "0.png,cat,3"], "line 12: 3 columns instead of 2"),
    "no label at all": ([], "labels no image"),
    "one class": (SOUND[:1], "names one class only"),
}


def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: lines that are wrong are passed over."""

    def read_labels(path: Path) -> Any:
        rows = [row for row in csv.reader(path.read_text().splitlines()[1:]) if row[0] != "77.png"]
        labels = {row[0]: row[1] for row in rows} | {"0.png": "dog", "1.png": "cat"}
        labels = {name: label for name, label in labels.items() if label in {"cat", "dog"} and name}
        return labels, dict.fromkeys(labels, 0)

    monkeypatch.setattr(_listing, "read_labels", read_labels)


@pytest.mark.parametrize("case", WRONG)
@fault("D18", **{"the-lines": lenient})
def test_d18_a_wrong_file_of_labels_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    lines, words = WRONG[case]
    with pytest.raises(InputError, match=words):
        packed(flat(tmp_path / "images", lines), tmp_path / "data")
    assert not (tmp_path / "data/datasets/mine").exists()


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("header", ["name,class", "file;label"])
def test_a_header_of_another_kind_is_refused(header: str, folders: bool, tmp_path: Path) -> None:
    """Beside class folders too: else labels that the user withholds would be trained on."""
    root = flat(tmp_path / "images", SOUND, header)
    if folders:
        images_in(root / "train/cat", 2, 50)
        images_in(root / "train/dog", 2, 60)
    with pytest.raises(InputError, match=f"the header is '{header}', not 'file,label'"):
        packed(root, tmp_path / "data")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty: it says which image has which label, below the line file,label"),
        ("1.png,Heron\n", "the header is '1.png,Heron', not 'file,label': add the line file,label above it"),
        ("File;Label\n", "the header is 'File;Label', .*: separate the columns with commas, not with semicolons"),
        ("Name,Class\n", "the header is 'Name,Class', .*: this file says which image has which label"),
    ],
)
def test_a_header_that_is_wrong_is_quoted_as_it_is_written_with_what_to_do(text: str, said: str, tmp_path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        read_labels(file)


def test_a_file_of_labels_one_folder_too_high_is_named(tmp_path: Path) -> None:
    root = tmp_path / "images"
    images_in(root / "train/march", 2, 50)
    images_in(root / "val/cat", 2, 60)
    images_in(root / "val/dog", 2, 70)
    (root / "labels.csv").write_text("file,label\n")
    said = f"{root} a labels.csv, which is not read there: it belongs in {root / 'train'}"
    with pytest.raises(DataError, match=said):
        packed(root, tmp_path / "data")


def test_folders_that_a_file_of_labels_overrides_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once before the images are read, once when they are packed; nothing of one folder, which could be no classes."""
    root = flat(tmp_path / "images", SOUND)
    images_in(root / "train/scans", 2, 50)
    source = f"{root}?size=8"
    note = "train/labels.csv gives the labels, so the names of folders in train/ are ignored: owl, scans"
    assert datasets.get("mine", source).remarks(source) == []
    images_in(root / "train/unlabeled", 2, 70)
    assert "folders in train/ are ignored: scans" in datasets.get("mine", source).remarks(source)[0]
    images_in(root / "train/owl", 2, 60)
    assert datasets.get("mine", source).remarks(source) == [note]
    assert packed(root, tmp_path / "data").classes == ["cat", "dog"]
    assert capsys.readouterr().err.count(note) == 1


def test_a_quoted_header_is_the_same(tmp_path: Path) -> None:
    dataset = packed(flat(tmp_path / "images", SOUND, '"file","label"'), tmp_path / "data")
    assert (dataset.train_labels >= 0).sum() == len(SOUND)


def test_test_images_need_labels(tmp_path: Path) -> None:
    root = flat(tmp_path / "images", SOUND)
    images_in(root / "test/unlabeled", 2, 300)
    with pytest.raises(InputError, match="test or validate on need labels; 2 have none"):
        packed(root, tmp_path / "data")


def in_folders(root: Path) -> Path:
    """Write the same images and labels with class folders and `unlabeled/` beside them."""
    flat(root, SOUND)
    for line in SOUND:
        name, label = line.split(",")
        (root / "train" / label).mkdir(exist_ok=True)
        (root / "train" / name).rename(root / "train" / label / name)
    (root / "train/unlabeled").mkdir()
    for path in (root / "train").glob("*.png"):
        path.rename(root / "train/unlabeled" / path.name)
    (root / "train/labels.csv").unlink()
    return root


@pytest.mark.parametrize("write", [lambda root: flat(root, SOUND), in_folders], ids=["file", "folders"])
def test_images_without_a_label_are_packed_and_only_teachers_use_them(write, tmp_path, vit_folder, capsys):
    root, data = write(tmp_path / "images"), tmp_path / "data"
    dataset = packed(root, data)
    assert "10 training images of 20 without a label" in capsys.readouterr().err
    names = [Path(name).name for name in dataset.names("train")]
    found = dict(zip(names, dataset.train_labels.tolist(), strict=True))
    assert found == {f"{n}.png": -1 if n >= 10 else 0 if n % 2 else 1 for n in range(20)}
    assert dataset.classes == ["cat", "dog"]
    assert len(dataset.validation) == 2
    assert (dataset.train_labels[dataset.validation] >= 0).all()
    numbers, seen = Hyperparameters(epochs=1, batch_size=4), {}
    for train_type in ("supervised", "vanilla", "embed-KD", "feature-KD"):
        teacher = "none" if train_type == "supervised" else str(vit_folder)
        cell = Cell("corrected", "mine", "tiny-32", teacher, train_type, 0, source=f"{root}?size=8")
        layout = Layout(data)
        prepare.for_training(cell, layout, CPU)
        job = open_job(cell, numbers, layout, CPU)
        seen[train_type] = len(job.images.rows)
        metrics = train(job, RunFolder(tmp_path / train_type))
        assert (metrics.labelled_images, metrics.validation_images, metrics.train_images) == (8, 2, seen[train_type])
    assert seen == {"supervised": 8, "vanilla": 18, "embed-KD": 8, "feature-KD": 18}
    within = Cell("corrected", "mine", "tiny-32", str(vit_folder), "vanilla-within-class", 0, source=f"{root}?size=8")
    with pytest.raises(InputError, match="use 'vanilla-permuted'"):
        train(open_job(within, numbers, Layout(data), CPU), RunFolder(tmp_path / "within"))


def test_a_file_of_labels_in_other_letters_is_not_passed_over(tmp_path: Path) -> None:
    """Beside class folders all images would count as labelled."""
    for place, name in enumerate(("cat", "dog")):
        images_in(tmp_path / "photos/train" / name, 3, 10 * place)
        images_in(tmp_path / "photos/test" / name, 3, 100 + 10 * place)
    (tmp_path / "photos/train/Labels.CSV").write_text("file,label\ncat/0.png,cat\ndog/10.png,dog\n")
    with pytest.raises(InputError, match=r"train/Labels.CSV: rename it to labels.csv"):
        packed(tmp_path / "photos", tmp_path / "data")


def test_files_whose_names_look_the_same_are_named(tmp_path: Path) -> None:
    """Accents composed and decomposed: a file of labels means either."""
    root = flat(tmp_path / "images", SOUND)
    for number, name in enumerate(("caf\u00e9", "cafe\u0301")):
        images_in(root / "train", 1, 200 + number)
        (root / f"train/{200 + number}.png").rename(root / f"train/{name}.png")
    with pytest.raises(DataError, match=r"can't tell apart '.*cafe\\u0301.png' and '.*caf\\xe9.png'"):
        packed(root, tmp_path / "data")
