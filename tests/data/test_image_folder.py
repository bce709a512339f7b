"""Image folders made of real images: every kind PIL can give, classes that differ, files that are damaged."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from clipkd.cli import main
from clipkd.core.artifacts import write_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.core.images import Decoding, decode
from clipkd.data.dataset import Dataset, prepare_dataset
from clipkd.data.packing import share_held_out
from clipkd.plugins import datasets


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    """Two real photographs, uint8 [427, 640, 3]."""
    china, flower = load_sample_images().images
    return {"china": china, "flower": flower}


@pytest.fixture
def folder(photos: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """Crops of each photograph, as PNG and (the last) as JPEG."""
    root = tmp_path / "photos"
    for split, count in (("train", 4), ("val", 2)):
        for name, photo in photos.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                crop = photo[10 * number : 10 * number + 60, 20 * number : 20 * number + 50 + number]
                path = root / split / name / f"{number}.{'jpg' if number == 3 else 'png'}"
                Image.fromarray(crop).save(path, quality=95)
    return root


def pack(folder: Path, **changes: object) -> Dataset:
    spec = datasets.get("photos", source=str(folder))
    return prepare_dataset(type(spec)(name="photos", title="Photos", **changes), folder.parent / "packed", str(folder))  # type: ignore[call-arg]


def test_real_images(folder: Path, photos: dict[str, np.ndarray]) -> None:
    (folder / "train" / "china" / "notes.txt").write_text("not an image")
    dataset = pack(folder)
    assert dataset.classes == ["china", "flower"]
    assert dataset.train_labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert dataset.test_labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(dataset.image("train", 2), photos["china"][20:80, 40:92])
    np.testing.assert_array_equal(dataset.image("test", 3), photos["flower"][10:70, 20:71])
    jpeg = dataset.image("train", 3).astype(float)
    assert np.abs(jpeg - photos["china"][30:90, 60:113]).mean() < 6


@pytest.mark.parametrize(
    ("images", "held_out"), [(0, 0), (400, 40), (5_000, 500), (10_000, 500), (25_000, 500), (1_000_000, 20_000)]
)
def test_a_small_folder_holds_out_a_tenth(images: int, held_out: int) -> None:
    spec = datasets.get("photos", "photos")
    assert images * share_held_out(spec.validation_fraction, spec.validation_least, images) == pytest.approx(held_out)


def test_long_images_are_brought_down(folder: Path) -> None:
    dataset = pack(folder, pack_size=25)
    # 60 x 52 becomes 29 x 25 (60 * 25 / 52 = 28.8); means are kept.
    assert [image.shape for image in dataset.images("test")] == [(30, 25, 3), (29, 25, 3)] * 2
    whole = Image.open(folder / "train" / "china" / "2.png")
    packed = dataset.image("train", 2)
    assert packed.shape == (29, 25, 3)
    assert np.abs(packed.mean((0, 1)) - np.asarray(whole).mean((0, 1))).max() < 2


def test_short_images_stay(folder: Path) -> None:
    assert pack(folder, pack_size=50).image("train", 0).shape == (60, 50, 3)


def test_many_images_keep_their_order(tmp_path: Path) -> None:
    scans, labels = load_digits().images[:400], load_digits().target[:400]
    for split, rows in (("train", range(300)), ("val", range(300, 400))):
        for row in rows:
            path = tmp_path / "digits" / split / str(labels[row]) / f"{row:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((scans[row] * 15).astype(np.uint8)).save(path)
    dataset = pack(tmp_path / "digits")
    order = [row for digit in range(10) for row in range(300) if labels[row] == digit]
    np.testing.assert_array_equal(dataset.train_labels, labels[order])
    for place, row in enumerate(order):
        np.testing.assert_array_equal(dataset.image("train", place)[..., 1], scans[row] * 15)


def test_wrong_number_of_classes(folder: Path) -> None:
    with pytest.raises(DataError, match="has 1000 classes, its source names 2"):
        prepare_dataset(datasets.get("imagenet"), folder.parent / "packed", str(folder))


def test_missing_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent does not exist"):
        pack(tmp_path / "absent")
    (tmp_path / "bare" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="bare has no val/"):
        pack(tmp_path / "bare")
    (tmp_path / "bare" / "val").mkdir()
    with pytest.raises(DataError, match="train has no class folders"):
        pack(tmp_path / "bare")
    with pytest.raises(InputError, match="--dataset-source FOLDER"):
        prepare_dataset(datasets.get("imagenet"), tmp_path / "packed")


def test_a_look_at_the_folders_tells_what_packing_would_refuse(tmp_path: Path) -> None:
    root = tmp_path / "photos/birds"
    spec = datasets.get("photos", source=str(root))
    for split, classes in {"train": ("cat", "dog"), "val": ("cat", "dog"), "test": ("cat", "dog")}.items():
        for name in classes:
            (root / split / name).mkdir(parents=True)
    for source in (root, tmp_path / "absent"):  # what is not there is said elsewhere
        spec.check_source(str(source))
    with pytest.raises(InputError, match=f"no train/ and no val/ .* it has birds/: did you mean {root}\\?$"):
        spec.check_source(str(root.parent))
    (root / "val/cow").mkdir()
    (root / "train/unlabeled").mkdir()
    with pytest.raises(DataError, match=f"differ:\n  only in {root}/val: cow$"):
        spec.check_source(str(root))
    (root / "train/Unlabeled").mkdir()
    with pytest.raises(DataError, match=r"Unlabeled\n  images without a label lie in a folder named `unlabeled`$"):
        spec.check_source(str(root))
    (root / "train/Unlabeled").rmdir()
    (root / "val/labels.csv").write_text("file,label\n1.png,cat\n2.png,dgo\n3.png,cat\n4.png,dgo\n")
    with pytest.raises(InputError, match=r"only in \S+: dgo \(\S+/val/labels.csv, line 3\); did you mean 'dog'\?"):
        spec.check_source(str(root))
    (root / "val/labels.csv").write_text("file,label\n1.png,cat\n")
    with pytest.raises(InputError, match="names one class only, 'cat'"):
        spec.check_source(str(root))
    (root / "val/labels.csv").unlink()
    shutil.rmtree(root / "val")
    (root / "train").rename(tmp_path / "all")
    (root / "train").mkdir()
    (tmp_path / "all").rename(root / "train/all")
    with pytest.raises(DataError, match="has one class folder, 'all', which holds the folders cat, dog"):
        spec.check_source(str(root))


def test_another_folder_for_a_packed_name(folder: Path, tmp_path: Path) -> None:
    project, other = tmp_path / "project", tmp_path / "other"
    project.mkdir()
    folder = folder.rename(project / "photos")
    shutil.copytree(folder, other)
    content = pack(folder).content
    with pytest.raises(InputError, match=f"'photos' was packed from {folder}, not from {other}: delete .*packed"):
        prepare_dataset(datasets.get("photos", str(other)), project / "packed", str(other))
    # The same folder by another path, none, one that is not there, and the packed dataset itself are no other folder.
    (tmp_path / "link").symlink_to(folder)
    for source in (tmp_path / "link", None, tmp_path / "absent", project / "packed"):
        given = None if source is None else str(source)
        assert prepare_dataset(datasets.get("photos", str(folder)), project / "packed", given).content == content
    # A copy of the whole project has its own folder of images; packed data also go where the originals are not.
    copied = Path(shutil.copytree(project, tmp_path / "copied"))
    photos = str(copied / "photos")
    assert prepare_dataset(datasets.get("photos", photos), copied / "packed", photos).content == content
    folder.rename(project / "gone")
    assert prepare_dataset(datasets.get("photos", str(other)), project / "packed", str(other)).content == content


@pytest.mark.parametrize(
    "command",
    [
        "download photos",
        "thumbnails photos --side 32",
        "extract --dataset-name photos --teacher-model digits-vit-s --views full",
    ],
)
def test_no_verb_leaves_another_folder_unused_in_silence(command: str, folder: Path, tmp_path: Path, capsys) -> None:
    """Packed and made already, there would be nothing to do."""
    data, other = tmp_path / "data", tmp_path / "other"
    prepare_dataset(datasets.get("photos", str(folder)), data / "datasets" / "photos", str(folder))
    shutil.copytree(folder, other)
    assert main([*command.split(), "--data", str(data), "--dataset-source", str(other)]) == 2
    assert f"'photos' was packed from {folder}, not from {other}" in capsys.readouterr().err


def test_an_older_manifest_does_not_know_its_folder(folder: Path, tmp_path: Path) -> None:
    packed = pack(folder).artifact
    facts = {name: fact for name, fact in packed.facts.items() if name != "source"}
    write_manifest(packed.path, "dataset", packed.identity, facts, packed.manifest["files"])
    other = str(shutil.copytree(folder, tmp_path / "other"))
    assert prepare_dataset(datasets.get("photos", other), packed.path, other).classes == ["china", "flower"]


def test_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    spec = datasets.get("photos", "~/photos")
    assert spec.known_classes("~/photos") == ["china", "flower"]
    assert prepare_dataset(spec, folder.parent / "packed", "~/photos").classes == ["china", "flower"]


def bomb(side: int) -> bytes:
    """Return a small PNG that announces side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda data: b"", "it is empty", id="empty"),
        pytest.param(lambda data: data[: len(data) // 2], "can't be decoded", id="truncated"),
        pytest.param(lambda data: data[:200] + b"\0" * 500 + data[700:], "can't be decoded", id="overwritten"),
        pytest.param(lambda data: b"no image at all" * 50, "can't be decoded", id="text"),
        pytest.param(lambda data: bomb(9_000), "9000 x 9000 pixels", id="large"),
        pytest.param(lambda data: bomb(60_000), "more than .* pixels", id="bomb"),
    ],
)
def test_damaged_image_is_named(folder: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = folder / "train" / "flower" / "1.png"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"train/flower/1.png.*{message}"):
        pack(folder)
    assert not (folder.parent / "packed").exists()


def test_vanished_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png"):
        decode(tmp_path / "gone.png", 256)


@pytest.mark.parametrize(
    ("kind", "said"), [("jpeg", "it is cut off"), ("webp", "it is damaged or cut off"), ("png", "it is cut off")]
)
def test_an_image_that_ends_too_early_is_so_called_with_what_to_do(kind: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=rf"can't be decoded as an image \({said}\); repair or remove it$"):
        decode(path, 256)


def saved(image: Image.Image, path: Path) -> np.ndarray:
    image.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode(path, 256)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (image.height, image.width, 3)
    return decoded


def test_kinds_of_images(photos: dict[str, np.ndarray], tmp_path: Path) -> None:
    photo = Image.fromarray(photos["flower"][:40, :30])
    grey = np.asarray(photo.convert("L"))
    rgb = np.asarray(photo)
    np.testing.assert_array_equal(saved(photo.convert("L"), tmp_path / "l.png"), np.stack([grey] * 3, -1))
    bits = saved(photo.convert("1"), tmp_path / "1.png")
    assert set(np.unique(bits)) == {0, 255}
    with_alpha = Image.merge("RGBA", (*photo.split(), Image.fromarray(grey // 2)))
    opacity = (grey // 2)[..., None] / 255
    on_white = rgb * opacity + 255 * (1 - opacity)
    assert np.abs(saved(with_alpha, tmp_path / "rgba.png") - on_white).max() <= 1
    grey_on_white = grey[..., None] * opacity + 255 * (1 - opacity)
    assert np.abs(saved(with_alpha.convert("LA"), tmp_path / "la.png") - grey_on_white).max() <= 1
    palette = photo.quantize(16)
    colours = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(saved(palette, tmp_path / "p.png"), colours)
    palette.info["transparency"] = bytes(range(16))
    opacity = np.asarray(palette)[..., None] / 255
    assert np.abs(saved(palette, tmp_path / "pt.png") - (colours * opacity + 255 * (1 - opacity))).max() <= 1
    cmyk = Image.merge("CMYK", [Image.fromarray(255 - rgb[..., c]) for c in range(3)] + [Image.new("L", photo.size)])
    np.testing.assert_array_equal(saved(cmyk, tmp_path / "cmyk.tif"), rgb)
    assert np.abs(saved(cmyk, tmp_path / "cmyk.jpg").astype(float) - rgb).mean() < 12
    np.testing.assert_array_equal(saved(Image.fromarray(rgb[:1, :1]), tmp_path / "one.png"), rgb[:1, :1])


@pytest.mark.parametrize(
    ("highest", "suffix", "white"),
    [
        pytest.param(65_535, "png", 65_535, id="all bits"),
        pytest.param(4_000, "png", 4_095, id="twelve of them"),
        pytest.param(1_023, "tif", 1_023, id="ten of them"),
        pytest.param(7, "png", 255, id="eight at least"),
        pytest.param(4_000, "pgm", 65_535, id="declared by the format"),
    ],
)
def test_sixteen_bits_are_scaled_by_what_is_used(highest: int, suffix: str, white: int, tmp_path: Path) -> None:
    levels = np.array([[0, highest // 3, highest // 2], [highest, 1, highest - 1]], dtype=np.uint16)
    found = saved(Image.fromarray(levels), tmp_path / f"16.{suffix}")
    np.testing.assert_array_equal(found[..., 0], np.round(levels * (255 / white)))


def test_a_tiff_says_what_is_white(tmp_path: Path) -> None:
    levels = np.array([[0, 500, 1000]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "16.tif", tiffinfo={281: 2000})
    np.testing.assert_array_equal(decode(tmp_path / "16.tif", 256)[..., 0], [[0, 64, 128]])


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(orientation: int, kind: str, tmp_path: Path) -> None:
    """The stored pixels of each orientation, by the standard's own words: where the visual top left lies."""
    upright = np.zeros((24, 40, 3), dtype=np.uint8)
    upright[:8, :8], upright[:8, -8:], upright[-8:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    rows_first = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
    # Of 1 to 4 the stored row is a visual row, of 5 to 8 a visual column; -1: counted from the other end.
    along = upright if orientation < 5 else upright.transpose(1, 0, 2)
    rows, columns = rows_first[orientation]
    along = along[::rows, ::columns]  # 6: row 0 is the right side and column 0 the top; 8: the left, and the bottom
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    Image.fromarray(np.ascontiguousarray(along)).save(tmp_path / f"photo.{kind}", exif=exif, **options)
    found = decode(tmp_path / f"photo.{kind}", 256)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 8
    if orientation > 1:
        stored = decode(tmp_path / f"photo.{kind}", 256, Decoding(exif="ignore"))
        assert stored.shape == along.shape
        assert np.abs(stored.astype(int) - along).mean() < 8


def test_no_defined_range(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif: 32-bit pixels"):
        decode(tmp_path / "f.tif", 256)


@pytest.mark.long
def test_torchvision_imports_beside_any_torch() -> None:
    """In a fresh process: torchvision and transformers import, whichever of the two wheels are CUDA builds."""
    script = """
from clipkd.core.vision import torchvision
import torch
from torchvision import datasets, transforms, models
from transformers import ViTModel
assert torch.ops.torchvision.nms and torchvision.datasets is datasets
"""
    environment = os.environ | {"PYTHONPATH": str(Path(datasets.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
