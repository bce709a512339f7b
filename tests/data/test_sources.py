"""Sources of datasets: what they lack, how they are named, and what of them is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipkd.core.errors import DataError, InputError
from clipkd.data.dataset import Dataset, prepare_dataset
from clipkd.plugins import datasets

COMMIT = "a" * 40


def saved(root: Path, counts: dict[str, int]) -> Path:
    """Write small images of many colours: folder -> how many."""
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for image in range(count):
            Image.new("RGB", (8, 8), (20 * number, 200 - 20 * image, 40)).save(root / folder / f"{image}.png")
    return root


def packed(source: str, folder: Path) -> Dataset:
    return prepare_dataset(datasets.get(folder.name, source), folder, source)


def test_a_class_without_a_training_image_is_named_though_validation_has_one(tmp_path: Path) -> None:
    counts = {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in "ab"} | {"train/b": 0}
    with pytest.raises(DataError, match="no train image of class 'b'"):
        packed(str(saved(tmp_path / "mine", counts)), tmp_path / "data/mine")


def test_a_class_without_a_validation_image_is_said(tmp_path: Path, capsys: Any) -> None:
    counts = {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in "ab"} | {"val/b": 0}
    assert len(packed(str(saved(tmp_path / "mine", counts)), tmp_path / "data/mine").validation) == 3
    assert "  no validation image of class 'b': epochs are chosen without it\n" in capsys.readouterr().err


def test_this_folder_may_hold_images_without_a_label(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(saved(tmp_path, {"loose": 1}) / "loose")
    assert len(packed(".", tmp_path / "data/mine").train_labels) == 1
    assert "packed 1 image without any label" in capsys.readouterr().err


def test_a_packed_dataset_as_source_is_augmented_as_before(tmp_path: Path) -> None:
    counts = {f"{split}/{name}": 3 for split in ("train", "val") for name in "ab"}
    source = f"{saved(tmp_path / 'mine', counts)}?augment=crop&size=8"
    found = packed(source, tmp_path / "data/mine")
    again = datasets.get("mine", str(tmp_path / "data/mine"))
    assert (again.augmentation, again.identity()) == ("crop", found.spec.identity())


@pytest.mark.parametrize("options", ["?pack=128", "?size=300&pack=512", "?pack=512", "", "?size=300"])
def test_the_source_of_a_dataset_of_the_hub_is_written_whole(options: str) -> None:
    spec = datasets.get("pets", f"hub:owner/pets@{COMMIT}{options}")
    again = datasets.get("pets", spec.source)
    assert again == spec


def test_a_folder_for_torchvision_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    source = f"torchvision:MNIST?root={tmp_path / 'typo'}"
    with pytest.raises(InputError, match=r"folder .*typo does not exist; leave \?root= out to download MNIST"):
        packed(source, tmp_path / "data/mnist")
    assert not (tmp_path / "typo").exists()
