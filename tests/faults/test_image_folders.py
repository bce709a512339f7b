"""Rows D06 to D08, D10 to D12 and D15: folders of images as users have them, damaged, incomplete, or changed."""

from __future__ import annotations

import io
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.core.errors import DataError, InputError
from clipkd.data import image_files
from clipkd.data.dataset import open_dataset, prepare_dataset
from clipkd.embeddings import prepare
from clipkd.plugins import datasets
from clipkd.spec import cells, class_names
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import Sample
from tests.data.test_image_folder import bomb
from tests.faults.checks import fault, nothing, replaced

CPU = torch.device("cpu")


def folder_of_images(root: Path, classes: dict[str, list[str]]) -> Path:
    """Write small images: split -> classes; three images each."""
    for split, names in classes.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = np.full((8, 8, 3), 20 * number + len(name), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def prepared(root: Path, data: Path) -> Any:
    spec = datasets.get("mine", str(root))
    return prepare_dataset(spec, Layout(data).dataset(spec), str(root))


@fault("D06", **{"the-counts": replaced("clipkd.data.dataset.check", nothing)})
def test_classes_that_do_not_agree_are_listed(tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, list[str]], tuple[str, ...]]] = {
        "val lacks one": ({"train": ["a", "b", "c"], "val": ["a", "b"]}, ("only in ", "/train: c")),
        "val has other ones": ({"train": ["a", "b"], "val": ["x", "y"]}, ("/train: a, b", "/val: x, y")),
        "empty class": ({"train": ["a", "b"], "val": ["a", "b"]}, ("image of class 'b'",)),
        "one image": ({"train": ["a", "b"], "val": ["a", "b"]}, ("b", "1 labelled training image,")),
    }
    for name, (classes, parts) in cases.items():
        root = folder_of_images(tmp_path / name, classes)
        if name == "empty class":
            for path in (root / "val" / "b").iterdir():
                path.unlink()
        if name == "one image":
            for number in (1, 2):
                (root / "train" / "b" / f"{number}.png").unlink()
        try:
            prepared(root, tmp_path / f"{name} data")
        except DataError as error:
            assert [part for part in parts if part not in str(error)] == [], error
        else:
            pytest.fail(f"taken: {name}")


def black(path: Path, *_: Any) -> np.ndarray:
    """The mutant: what can't be decoded is black."""
    return np.zeros((8, 8, 3), np.uint8)


def at_once(reader: Any, where: str, decode: Any) -> np.ndarray:
    """The mutant: the first bad image ends the reading."""
    return decode()


def bad_images() -> dict[str, bytes]:
    good = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(good, "png")
    return {
        "empty.png": b"",
        "cut.png": good.getvalue()[:60],
        "no image.png": b"hello",
        "html.jpg": b"<html></html>",
        "bomb.png": bomb(20_000),
        "flipped.png": good.getvalue()[:99] + bytes([good.getvalue()[99] ^ 1]) + good.getvalue()[100:],
        "shell.png": b"%!PS\n(x) run\n",
    }


@fault(
    "D07",
    **{
        "the-image's-name": replaced("clipkd.core.images.decode", black),
        "reading-on": replaced("clipkd.core.image_reader.ImageReader.sound", at_once),
    },
)
def test_bad_images_are_named_all_at_once_and_never_skipped(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    images = bad_images()
    bad = [root / split / name for split, name in zip(("train/b", "val/a") * 4, images, strict=False)]
    for path, content in zip(bad, images.values(), strict=True):
        path.write_bytes(content)
    try:
        prepared(root, tmp_path / "data")
    except DataError as error:
        assert [path for path in bad if str(path) not in str(error)] == []
        assert f"({len(bad)} problems)" in str(error)
    else:
        pytest.fail("taken")
    assert not (tmp_path / "data/datasets/mine").exists()
    # Of very many, the first are named, and all are counted.
    for number in range(30):
        (root / "val" / "b" / f"broken-{number:02}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"\(37 problems\)(?s:.*)\.\.\. and 17 more"):
        prepared(root, tmp_path / "data")


def ragged_folder(root: Path) -> Path:
    """Write a folder of images with what users' folders hold beside them: 12 training images in all."""
    folder_of_images(root, {"train": ["a", "b"], "val": ["a", "b"]})
    whole = Image.open(root / "train/a/1.png")
    for name, form in (("g.gif", "GIF"), ("j.jp2", "JPEG2000"), ("u.JPG", "JPEG"), ("f.jfif", "JPEG")):
        whole.save(root / "train/a" / name, form)
    (root / "train/b/deeper").mkdir()
    for name in ("train/b/noext", "train/b/deeper/x.data"):
        whole.save(root / name, "PNG")
    for name in ("train/.hidden/0.png", "train/__MACOSX/0.png", "train/a/.cache/0.png", "train/a/._0.png"):
        (root / name).parent.mkdir(exist_ok=True)
        whole.save(root / name)
    for name in ("train/readme.csv", "train/a/notes.txt", "train/b/photo.heic"):
        (root / name).write_bytes(b"not an image at all")
    (root / "train/b/loop").symlink_to(root)
    (root / "train/b/again").symlink_to(root / "train/b/deeper")
    os.mkfifo(root / "train/b/pipe")
    (root / "more").mkdir()
    return root


@fault(
    "D10",
    **{
        "the-header": replaced("clipkd.core.images.is_image", lambda path: path.suffix in {".png", ".JPG", ".gif"}),
        "hidden-names": replaced("clipkd.plugins.datasets._listing.is_hidden", lambda name: False),
        "inodes": replaced("clipkd.plugins.datasets._listing.Walk.enter", lambda *_: True),
        "the-count": replaced("clipkd.plugins.datasets.image_folder.left_out", lambda *_: {}),
    },
)
def test_a_folder_is_read_as_it_is_and_what_is_left_out_is_said(tmp_path: Path, capsys: Any) -> None:
    root = ragged_folder(tmp_path / "images")
    try:
        dataset = prepared(root, tmp_path / "data")
    except (OSError, RecursionError):  # the loop, without its protection
        pytest.fail("an endless loop")
    assert dataset.classes == ["a", "b"]
    assert dataset.train_labels.tolist() == [0] * 7 + [1] * 5
    assert dataset.artifact.facts["reading"].get("skipped") == {
        "a link to a folder that was listed already": 2,
        "beside the class folders": 1,
        "hidden, or made by a file manager": 4,
        "not a regular file": 1,
        "not an image that PIL reads: .heic": 1,
        "not an image that PIL reads: .txt": 1,
    }
    told = capsys.readouterr().err
    assert "left out: 1 (not an image that PIL reads: .heic)" in told
    assert "not read, beside the splits: more" in told


def bad_folders(root: Path) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Return folders that can't be used as they are, with what the message names."""
    both = {"train": ["a", "b"], "val": ["a", "b"]}
    made = {name: folder_of_images(root / name, both) for name in (
        "val is a link", "class is a link", "two names", "dangling", "not text", "accents", "a link down",
    )}  # fmt: skip
    shutil.rmtree(made["val is a link"] / "val")
    (made["val is a link"] / "val").symlink_to("train")
    (made["class is a link"] / "train/c").symlink_to("b")
    shutil.copytree(made["two names"] / "val", made["two names"] / "valid")
    (made["dangling"] / "train/a/gone.png").symlink_to("nowhere.png")
    (made["dangling"] / "val/b/gone-too.png").symlink_to("nowhere.png")
    (made["dangling"] / "train/a/itself").symlink_to("itself")
    os.mkdir(os.fsencode(made["not text"] / "train") + b"/caf\xe9")
    for name in ("caf\u00e9", "cafe\u0301"):
        (made["accents"] / "train" / name).mkdir()
    (made["a link down"] / "train/a/more").symlink_to(made["a link down"] / "val/b")
    deeper = folder_of_images(root / "deeper", {"train/images": ["cat", "dog"], "val/images": ["cat", "dog"]})
    return {
        "val is a link": (made["val is a link"], ("train", "val", "same folder")),
        "class is a link": (made["class is a link"], ("train/b", "train/c", "same folder")),
        "a link down": (made["a link down"], ("train/a/more", "val/b", "same folder")),
        "two names": (made["two names"], ("val/", "valid/")),
        "dangling": (made["dangling"], ("gone.png", "itself", "leads to no file")),
        "not text": (made["not text"], ("caf\\xe9", "UTF-8")),
        "accents": (made["accents"], ("accents",)),
        "one class": (folder_of_images(root / "one", {"train": ["a"], "val": ["a"]}), ("'a'", "at least two")),
        "a level too deep": (deeper, ("images", "cat, dog", "move them")),
        "no test split": (folder_of_images(root / "Train", {"Train": ["a", "b"], "val": ["a", "b"]}), ("Train/",)),
    }


@fault(
    "D10",
    **{
        "inodes": replaced("clipkd.plugins.datasets._listing.Walk.enter", lambda *_: True),
        "the-problems": replaced("clipkd.plugins.datasets._listing.Walk.refuse_problems", nothing),
        "two-classes": replaced("clipkd.plugins.datasets._listing.refuse_few_classes", nothing),
    },
)
def test_a_folder_that_can_not_be_used_is_refused_in_words(tmp_path: Path) -> None:
    for name, (root, parts) in bad_folders(tmp_path).items():
        try:
            prepared(root, tmp_path / f"{name} data")
        except (DataError, InputError) as error:
            assert [part for part in parts if part not in str(error)] == [], error
        else:
            pytest.fail(f"taken: {name}")


def test_a_folder_that_can_not_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for missing permission, which an administrator who runs the tests always has."""
    root = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) in {root / "train/b", root / "val/a"}:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"train/b: can't be listed \(Permission denied\)"):
        prepared(root, tmp_path / "data")


def test_an_accent_is_one_class_however_it_is_composed(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images", {"train": ["caf\u00e9", "b"], "val": ["cafe\u0301", "b"]})
    assert prepared(root, tmp_path / "data").classes == ["b", "caf\u00e9"]


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@fault("D10", composing=replaced("clipkd.spec.class_names.composed", lambda text: text))
def test_a_map_of_class_names_fits_folders_whose_accents_are_composed_otherwise() -> None:
    given = class_names.read({DECOMPOSED: "a coffee", "b": "tea"}, "class_names")
    assert given.of(["b", COMPOSED]) == ["tea", "a coffee"]
    for twice in ({COMPOSED: "one", DECOMPOSED: "two"}, {"a": COMPOSED, "b": DECOMPOSED}):
        with pytest.raises(InputError, match=r"there twice, its accents|could not tell them apart"):
            class_names.read(twice, "class_names")


@fault("D10", composing=replaced("clipkd.core.accents.composed", lambda text: text))
def test_a_path_that_looks_like_another_is_told_from_it(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / DECOMPOSED / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    asked = tmp_path / COMPOSED / "images"
    assert not asked.exists(), "a file system that takes both for one has nothing to tell"
    named = r"does not exist; there is '.*cafe\\u0301.*', which looks the same"
    with pytest.raises(InputError, match=named):
        prepared(asked, tmp_path / "data")
    with pytest.raises(InputError, match=named):
        image_files.listed([str(asked / "train")], io.StringIO())
    for elsewhere in (root / "train/gone.png", tmp_path / "gone"):
        with pytest.raises(InputError, match=r"does not exist$"):
            image_files.listed([str(elsewhere)], io.StringIO())


@fault(
    "D11",
    **{
        "exif": replaced("clipkd.core.images.orientation", lambda image: 1),
        "alpha": replaced("clipkd.core.images.Image.alpha_composite", lambda ground, layer: layer),
        "the-range": replaced("clipkd.core.image_reader.white_above", lambda level: 65_535),
    },
)
def test_images_are_packed_as_viewers_show_them(tmp_path: Path, capsys: Any) -> None:
    """A photograph on its side, hidden colours under transparency, 12 bits in 16: as they look, and it is said."""
    root = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = np.zeros((8, 16, 3), dtype=np.uint8)
    lying[:, :4] = 255
    Image.fromarray(lying).save(root / "train/a/lying.png", exif=exif)
    hidden = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    hidden[..., 3] = 0
    Image.fromarray(hidden).save(root / "train/a/under.png")
    for name, top in (("train/b/xray-1.png", 100), ("val/b/xray-2.png", 4000)):
        levels = np.full((8, 8), top, dtype=np.uint16)
        Image.fromarray(levels).save(root / name)
    dataset = prepared(root, tmp_path / "data")
    packed = {name: dataset.image("train", row) for name, row in (("lying", 3), ("under", 4), ("xray", 8))}
    assert packed["lying"].shape == (16, 8, 3)
    assert packed["lying"][:4].min() == 255
    assert packed["under"].min() == 255
    assert set(np.unique(packed["xray"])) == {round(100 * 255 / 4095)}, "one range for the whole dataset"
    reading = dataset.artifact.facts["reading"]
    assert reading["levels"] == {"lowest": 100, "highest": 4000, "white": 4095}
    assert (reading["turned"], reading["transparent"], reading["16_bit_grey"]) == (1, 1, 2)
    told = capsys.readouterr().err
    for part in ("EXIF orientation: 1 image,", "transparency: 1 image, laid on white", "levels 100 to 4,000"):
        assert part in told


COUNTER = itertools.count()
"""The mutant's hashes: no two images are alike."""


@fault(
    "D12",
    **{"the-hashes": replaced("clipkd.data.summary.digest_of", lambda image: next(COUNTER).to_bytes(16, "little"))},
)
def test_images_that_are_there_twice_are_counted(tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "images"
    for number, split in enumerate(("train", "val")):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for image in range(4):
                pixels = np.full((8, 8, 3), 100 * number + 10 * image + 50 * (name == "b"), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{image}.png")
    shutil.copy(root / "train/a/0.png", root / "train/b/copy.png")
    shutil.copy(root / "train/a/1.png", root / "val/a/copy.bmp")
    facts = prepared(root, tmp_path / "data").artifact.facts
    assert facts["duplicates"] == {"train": 1, "train_of_other_classes": 1, "test": 0, "test_in_train": 1}
    told = capsys.readouterr().err
    assert "1 of the 9 test images are also among the training" in told
    assert "says nothing about new images, for example val/a/copy.bmp and train/a/1.png" in told
    assert "equal training images in different classes: 1, for example train/a/0.png and train/b/copy.png" in told


def test_three_splits_have_three_uses(tmp_path: Path) -> None:
    """`val/` chooses among epochs, `test/` is tested on: no training image is held out."""
    root = folder_of_images(tmp_path / "images", {split: ["a", "b"] for split in ("train", "val", "test")})
    Image.new("RGB", (5, 5)).save(root / "val/a/x.png")
    Image.new("RGB", (6, 6)).save(root / "test/b/x.png")
    dataset = prepared(root, tmp_path / "data")
    assert (len(dataset.training), len(dataset.validation), len(dataset.test_labels)) == (6, 7, 7)
    assert dataset.training.tolist() == list(range(6))
    assert dataset.image("train", int(dataset.validation[3])).shape == (5, 5, 3)
    assert dataset.image("test", 6).shape == (6, 6, 3)
    assert dataset.train_labels[dataset.validation].tolist() == [0] * 4 + [1] * 3


def looked_at(root: Path, source: str, data: Path, seeds: int = 2) -> set[bool]:
    """Return whether the left or the right half of what a student is shown is white, in some epochs."""
    from clipkd.runs.job import open_batches, open_job, open_teacher_targets

    cell = cells.Cell("corrected", "mine", "tiny-32", "none", "supervised", 0, source=f"{root}{source}")
    layout = Layout(data)
    prepare.for_training(cell, layout, CPU)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    batches = open_batches(job, open_teacher_targets(job))
    found = set()
    for seed in range(seeds):
        for batch in batches.epoch(4, False, torch.Generator().manual_seed(seed)):
            light = batch.inputs.mean((1, 2))
            found |= set((light[:, :4].mean(1) > light[:, -4:].mean(1)).tolist())
    return found


def any_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: another augmentation is taken too."""
    for module in ("clipkd.plugins.datasets", "clipkd.plugins.datasets._source_options"):
        monkeypatch.setattr(f"{module}.get_args", lambda kind: ("none", "flip", "crop", "crop+flip", "sometimes"))


@fault(
    "D15",
    **{
        "the-option": replaced("clipkd.plugins.datasets.DatasetSpec.mirrors", True),
        "the-check": any_word,
    },
)
def test_what_must_not_be_mirrored_is_not(tmp_path: Path) -> None:
    """Lighter on the left: so is each view, unless mirroring was asked for."""
    root = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    for path in root.rglob("*.png"):
        ramp = np.linspace(255, int(path.stem), 64 + 8 * int(path.stem)).astype(
            np.uint8
        )  # each crop has a lighter side
        Image.fromarray(np.broadcast_to(ramp[None, :, None], (64, len(ramp), 3)).copy()).save(path)
    for source in ("?augment=none", "?augment=crop"):
        assert looked_at(root, source, tmp_path / source[1:]) == {True}, source
    for source in ("", "?augment=flip", "?augment=crop+flip"):
        assert looked_at(root, source, tmp_path / f"mirrored{source[1:]}") == {True, False}, source
    assert not datasets.get("digits").mirrors
    assert datasets.get("cifar10").mirrors
    for wrong in ("?augment=sometimes", "?size=big", "?augmented=flip"):
        with pytest.raises(InputError, match=r"augment|size"):
            datasets.get("mine", f"{root}{wrong}")


def test_a_question_mark_may_be_in_a_folder_s_name(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "which?name=x", {"train": ["a", "b"], "val": ["a", "b"]})
    for source, augmentation in ((f"{root}", "crop+flip"), (f"{root}?augment=none", "none")):
        spec = datasets.get("mine", source)
        assert (spec.folder(source), spec.augmentation) == (root, augmentation)


def test_a_folder_of_equal_squares_is_stored_exactly(tmp_path: Path, capsys: Any) -> None:
    root = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    prepared(root, tmp_path / "ragged")
    assert "write ?size=8&augment=flip after the source, or augment=none" in capsys.readouterr().err
    uncropped = f"{root}?augment=none"
    prepare_dataset(datasets.get("mine", uncropped), tmp_path / "uncropped", uncropped)
    assert "augment" not in capsys.readouterr().err, "the source says it already"
    spec = datasets.get("mine", f"{root}?size=8")
    assert (spec.augmentation, spec.crops) == ("flip", False)
    dataset = prepare_dataset(spec, tmp_path / "even", f"{root}?size=8")
    assert dataset.images("train").shape == (6, 8, 8, 3)
    Image.new("RGB", (8, 9)).save(root / "train/a/long.png")
    Image.new("RGB", (9, 9)).save(root / "val/a/large.png")
    with pytest.raises(DataError, match=r"long.png has 8 x 9 pixels, not 8 x 8(?s:.*)large.png has 9 x 9"):
        prepare_dataset(spec, tmp_path / "other", f"{root}?size=8")


@fault("D08", **{"the-content": replaced("clipkd.runs.job.Dataset.content", "the same")})
def test_what_was_cached_of_other_images_is_refused(tmp_path: Path, vit_folder: Path) -> None:
    """An image is edited, its time kept, and the dataset is packed again: nothing cached of the old one is used."""
    from clipkd.runs.job import open_job, open_teacher_targets

    root = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    layout = Layout(tmp_path / "data", sample=Sample(1))
    cell = cells.Cell("corrected", "mine", "tiny-32", str(vit_folder), "embed-KD", 0, source=str(root))
    prepare.for_training(cell, layout, CPU)
    open_teacher_targets(open_job(cell, Hyperparameters(), layout, CPU))
    path = root / "train" / "a" / "0.png"
    before = path.stat()
    Image.fromarray(np.full((8, 8, 3), 99, dtype=np.uint8)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    prepare.dataset(cell.dataset_spec, layout, cell.source, overwrite=True)
    with pytest.raises(DataError, match="made from another content of mine"):
        open_teacher_targets(open_job(cell, Hyperparameters(), layout, CPU))
    assert open_dataset(cell.dataset_spec, layout.dataset(cell.dataset_spec)).content


def test_a_validation_split_without_images_is_refused_where_there_is_a_test_split(tmp_path: Path) -> None:
    root = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"], "test": ["a", "b"]})
    for path in (root / "val").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="there is no validation image"):
        prepared(root, tmp_path / "data")


def test_what_lies_beside_a_folder_of_images_without_labels_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "images"
    folder_of_images(root, {"train": ["unlabeled"]})
    (root / "unlabeled").mkdir()
    shutil.copy(root / "train/unlabeled/0.png", root / "unlabeled/more.png")
    prepared(root, tmp_path / "data")
    assert "beside the splits: unlabeled" in capsys.readouterr().err
