"""The packed dataset: the digits against scikit-learn's own scans, and what is refused at packing and opening."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from clipkd.core.errors import DataError, MachineError
from clipkd.core.fingerprint import Identity
from clipkd.data.dataset import Dataset, open_dataset, prepare_dataset
from clipkd.plugins import datasets
from clipkd.plugins.datasets import DatasetSpec, Reading, Split

DIGITS = datasets.get("digits")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    prepare_dataset(DIGITS, folder)
    return folder


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "digits"))


@pytest.fixture
def digits(packed: Path) -> Dataset:
    return open_dataset(DIGITS, packed)


def test_digits_splits(digits: Dataset) -> None:
    labels = load_digits().target
    counts = np.bincount(labels)
    assert digits.classes == [str(digit) for digit in range(10)]
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    np.testing.assert_array_equal(np.bincount(digits.test_labels), counts // 5)
    train_counts = counts - counts // 5
    np.testing.assert_array_equal(np.bincount(digits.train_labels), train_counts)
    held_out = np.bincount(digits.train_labels[digits.validation], minlength=10)
    np.testing.assert_allclose(held_out, train_counts / 8, atol=0.5)  # an eighth of each class
    assert sorted([*digits.training, *digits.validation]) == list(range(len(digits.train_labels)))
    assert np.all(np.diff(digits.validation) > 0)
    assert np.all(np.diff(digits.training) > 0)


def test_digits_pixels_are_the_scans(digits: Dataset) -> None:
    scans, labels = load_digits().images, load_digits().target
    fifth = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        fifth[np.flatnonzero(labels == digit)[4::5]] = True
    for split, rows in (("train", np.flatnonzero(~fifth)), ("test", np.flatnonzero(fifth))):
        images = digits.images(split)
        assert images.shape == (len(rows), 32, 32, 3)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(digits.labels(split), labels[rows])
        np.testing.assert_array_equal(images[..., 0], images[..., 1])
        np.testing.assert_array_equal(images[..., 0], images[..., 2])
        expected = np.stack([enlarged(np.minimum(scan * 16, 255)) for scan in scans[rows]])
        # PIL rounds after each of the two directions.
        np.testing.assert_allclose(images[..., 0].astype(float), expected, atol=1.01)


def enlarged(scan: np.ndarray) -> np.ndarray:
    """Enlarge [8, 8] to [32, 32]: linear interpolation between pixel centres, the edge repeated."""
    centres = (np.arange(32) + 0.5) / 4 - 0.5
    wide = np.stack([np.interp(centres, np.arange(8), row) for row in scan])
    return np.stack([np.interp(centres, np.arange(8), column) for column in wide.T]).T


def test_known_pixels(digits: Dataset) -> None:
    # The first scan is a 0: load_digits().images[0][0] is [0, 0, 5, 13, 9, 1, 0, 0].
    first = digits.image("train", 0)
    assert digits.train_labels[0] == 0
    # Pixels 10 and 13 of the top row lie an eighth of a scan pixel beside the centres of the third and fourth.
    assert abs(int(first[0, 10, 0]) - (16 * (5 + 13 / 8 - 5 / 8))) <= 1
    assert abs(int(first[0, 13, 0]) - (16 * (13 - 13 / 8 + 5 / 8))) <= 1
    assert first[0, 0].tolist() == [0, 0, 0]


def test_second_prepare_does_nothing(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Reading:
        raise AssertionError("read again")

    before = {path: path.stat().st_mtime_ns for path in packed.rglob("*")}
    monkeypatch.setattr(type(DIGITS), "read", refuse)
    assert len(prepare_dataset(DIGITS, packed).test_labels) == 355
    assert {path: path.stat().st_mtime_ns for path in packed.rglob("*")} == before


def test_packing_is_reproducible(digits: Dataset, tmp_path: Path) -> None:
    again = prepare_dataset(DIGITS, tmp_path / "digits")
    assert again.artifact.manifest == digits.artifact.manifest
    assert again.content == digits.content


@pytest.mark.parametrize("name", ["train-images.npy", "test-images.npy", "train-labels.npy", "validation.npy"])
def test_flipped_byte_is_found_and_repaired(folder: Path, digits: Dataset, name: str) -> None:
    path = folder / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=f"{name} is damaged.*clipkd download digits"):
        open_dataset(DIGITS, folder)
    assert prepare_dataset(DIGITS, folder).content == digits.content
    assert open_dataset(DIGITS, folder).content == digits.content


def test_missing_dataset_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run `clipkd download digits`$"):
        open_dataset(DIGITS, tmp_path / "absent")
    with pytest.raises(DataError, match=r"run `clipkd download imagenet --dataset-source FOLDER`$"):
        open_dataset(datasets.get("imagenet"), tmp_path / "absent")
    with pytest.raises(DataError, match=r"run `clipkd download imagenet --dataset-source '/my images'`$"):
        open_dataset(datasets.get("imagenet"), tmp_path / "absent", source="/my images")


def test_arrays_are_read_only(digits: Dataset) -> None:
    with pytest.raises(ValueError, match="read-only"):
        digits.images("train")[0, 0, 0, 0] = 1


def test_no_torch_and_no_room(tmp_path: Path) -> None:
    """A full disk (a file size limit stands in for it) is one clear message, and leaves nothing behind."""
    script = """
import resource, sys
from pathlib import Path
from clipkd.plugins import datasets
from clipkd.data.dataset import prepare_dataset
from clipkd.core.errors import MachineError
folder = Path(sys.argv[1])
prepare_dataset(datasets.get("digits"), folder / "roomy")
assert "torch" not in sys.modules
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    prepare_dataset(datasets.get("digits"), folder / "full")
except MachineError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(datasets.__file__).parents[2])}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert f"can't write {tmp_path / 'full'}: File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["roomy"]


@dataclass(frozen=True)
class Made(DatasetSpec):
    """A dataset that a test makes up."""

    name: str = "made"
    title: str = "Made"
    image_size: int | None = None
    classes: int | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    augmentation: str = "flip"  # type: ignore[assignment]
    validation_fraction: float = 0.1
    reading: Reading | None = field(default=None, compare=False)

    def source_identity(self) -> Identity:
        return {"made": True}

    def read(self, source: str | None, downloads: Path) -> Reading:
        assert self.reading is not None
        return self.reading


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reading(
    train: Iterable[np.ndarray] | None = None,
    train_labels: Iterable[int] = (0, 0, 0, 1, 1, 1),
    test_labels: Iterable[int] = (0, 1),
    classes: Iterable[str] = ("cat", "dog"),
) -> Reading:
    labels = np.array(list(train_labels), dtype=np.int64)
    test = np.array(list(test_labels), dtype=np.int64)
    images = [image(8, 8, row) for row in range(len(labels))] if train is None else train
    return Reading(
        list(classes), Split(labels, images), Split(test, [image(8, 8, 100 + row) for row in range(len(test))])
    )


def test_images_of_several_sizes(tmp_path: Path) -> None:
    sizes = [(1, 1), (5, 9), (9, 5), (300, 2), (8, 8), (17, 31)]
    images = [image(*size, seed) for seed, size in enumerate(sizes)]
    dataset = prepare_dataset(Made(reading=reading(iter(images))), tmp_path / "made")
    assert dataset.artifact.facts["ragged"] is True
    assert len(dataset.images("train")) == 6
    for row, expected in enumerate(images):
        np.testing.assert_array_equal(dataset.image("train", row), expected)
    assert [found.shape[:2] for found in dataset.images("train")] == sizes
    assert np.load(tmp_path / "made" / "train-images.npy", mmap_mode="r").shape == (sum(3 * h * w for h, w in sizes),)
    with pytest.raises(IndexError):
        dataset.image("train", 6)


@pytest.mark.parametrize("size", [None, 16])
def test_images_are_streamed(tmp_path: Path, size: int | None) -> None:
    alive: weakref.WeakSet[Handle] = weakref.WeakSet()

    def images() -> Iterator[np.ndarray]:
        for row in range(50):
            held = image(16, 16, row).view(Handle)
            alive.add(held)
            assert len(alive) <= 3
            yield held
            del held

    labels = [0, 1] * 25
    dataset = prepare_dataset(Made(image_size=size, reading=even(reading(images(), labels), size)), tmp_path / "made")
    np.testing.assert_array_equal(dataset.image("train", 49), image(16, 16, 49))


class Handle(np.ndarray):
    """An array that can be counted: hashed by what it is, not by what it holds."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return self is other


def even(made: Reading, size: int | None) -> Reading:
    made.test.images = [image(size or 8, size or 8)] * 2
    return made


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(
            Made(reading=reading(train_labels=(0, 0, 1, 1, 1, 2))), "train image 5 has the label 2", id="high"
        ),
        pytest.param(
            Made(reading=reading(train_labels=(0, 0, 1, -2, 1, 1))), "train image 3 has the label -2", id="low"
        ),
        pytest.param(Made(reading=reading(train_labels=(0, 0, 0))), "no train image of class 'dog'", id="no train"),
        pytest.param(Made(reading=reading(test_labels=(1, 1))), "no test image of class 'cat'", id="no test"),
        pytest.param(
            Made(reading=reading(train_labels=(0, 0, 1))), "class 'dog' has 1 labelled training image, ", id="one image"
        ),
        pytest.param(Made(reading=reading([image(8, 8)] * 5)), "5 images, but 6 labels", id="few images"),
        pytest.param(Made(reading=reading([image(8, 8)] * 7)), "7 images, but 6 labels", id="many images"),
        pytest.param(Made(image_size=8, reading=reading([image(8, 8)] * 5)), "5 images, but 6 labels", id="few, even"),
        pytest.param(Made(image_size=9, reading=reading()), r"image 0 is \(8, 8, 3\), not \(9, 9, 3\)", id="size"),
        pytest.param(
            Made(reading=reading([*[image(8, 8)] * 4, image(8, 8)[..., 0], image(8, 8)])), "image 4 is uint8", id="grey"
        ),
        pytest.param(Made(reading=reading([image(8, 8) / 255] * 6)), "image 0 is float64", id="floats"),
        pytest.param(Made(reading=reading([image(8, 8)[:0]] * 6)), "image 0 is uint8", id="no pixels"),
        pytest.param(Made(classes=3, reading=reading()), "has 3 classes, its source names 2", id="class count"),
        pytest.param(Made(reading=reading(classes=("cat", "cat"))), "both named 'cat'", id="equal names"),
    ],
)
def test_what_is_refused(tmp_path: Path, spec: DatasetSpec, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare_dataset(spec, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_every_class_is_held_out(tmp_path: Path) -> None:
    labels = [0] * 40 + [1] * 3  # a tenth of three is none: one is taken all the same
    dataset = prepare_dataset(Made(reading=reading(train_labels=labels)), tmp_path / "made")
    assert np.bincount(dataset.train_labels[dataset.validation]).tolist() == [4, 1]


def test_taken_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="can't write"):
        prepare_dataset(Made(reading=reading()), tmp_path / "file" / "made")
