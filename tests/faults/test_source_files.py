"""Sources that change after packing: seen by names, sizes and times alone, told in counts, and refused nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkd.core.artifacts import read_manifest, write_manifest
from clipkd.data.dataset import prepare_dataset
from clipkd.data.source_files import LISTING, changes, stale
from clipkd.plugins import datasets
from clipkd.plugins.datasets import LocalFiles
from clipkd.plugins.datasets.torchvision_source import FILES, KNOWN
from tests import warm
from tests.faults.checks import fault
from tests.faults.test_image_folders import folder_of_images


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of images and the dataset that was packed from it."""
    source = folder_of_images(tmp_path / "here/images", {"train": ["a", "b"], "val": ["a", "b"]})
    folder = tmp_path / "here/data/datasets/mine"
    prepare_dataset(datasets.get("mine", str(source)), folder, str(source))
    return source, folder


def an_image(source: Path, split: str = "train") -> Path:
    return sorted(path for path in (source / split / "b").iterdir())[-1]


def times_put_back(source: Path) -> None:
    path = an_image(source)
    before = path.stat()
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edited_in_place(source: Path) -> None:
    path = an_image(source)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def added_below_a_link(source: Path) -> None:
    elsewhere = source.with_name("elsewhere")
    elsewhere.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(elsewhere / "new.png")
    (source / "val/b/more").symlink_to(elsewhere)


def a_split_that_was_not_there(source: Path) -> None:
    (source / "test/a").mkdir(parents=True)
    shutil.copy(an_image(source), source / "test/a/new.png")


def nothing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    none = (np.zeros(0, np.int64),) * 4
    monkeypatch.setattr("clipkd.data.source_files.compare", lambda before, now: none)
    monkeypatch.setattr("clipkd.data.source_files.rewritten", lambda local, sample: none[0])


EDITS: dict[Callable[[Path], object], tuple[int, int, int]] = {
    times_put_back: (0, 0, 1),
    edited_in_place: (0, 0, 1),
    added_below_a_link: (1, 0, 0),
    a_split_that_was_not_there: (1, 0, 0),
    lambda source: an_image(source, "val").unlink(): (0, 1, 0),
    lambda source: an_image(source).rename(an_image(source).with_name("renamed.png")): (1, 1, 0),
}


@fault("D17", **{"the comparison": nothing_is_seen})
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_after_packing_is_counted_and_named(edit: Callable[[Path], object], packed: tuple[Path, Path]) -> None:
    source, folder = packed
    assert changes(folder) is None
    edit(source)
    found = changes(folder)
    assert found is not None
    where, counts = found
    assert (where.samefile(source), counts.added, counts.removed, counts.changed) == (True, *EDITS[edit])
    if counts.added or counts.changed:
        assert counts.examples[0].rpartition(".")[0].split("/")[-1] in str(stale(folder))


def copied(source: Path, folder: Path) -> Path:
    for path in source.rglob("*.*"):
        os.utime(path)
    return folder


def moved(source: Path, folder: Path) -> Path:
    source.rename(source.with_name("elsewhere"))
    return folder


def archived(source: Path, folder: Path) -> Path:
    for path in source.rglob("*.*"):
        os.utime(path, (path.stat().st_mtime // 1, path.stat().st_mtime // 1))
    return folder


def moved_as_a_whole(source: Path, folder: Path) -> Path:
    project = source.parent.rename(source.parent.with_name("there"))
    return project / folder.relative_to(source.parent)


def of_an_older_version(source: Path, folder: Path) -> Path:
    an_image(source).unlink()
    manifest = read_manifest(folder)
    files = {name: entry for name, entry in manifest["files"].items() if name != LISTING}
    write_manifest(folder, "dataset", manifest["identity"], manifest["facts"], files)
    return folder


def notes_beside(source: Path, folder: Path) -> Path:
    (source / "README.md").write_text("what these are")
    (source / "train/a/.DS_Store").write_bytes(b"\0")
    return folder


def touched(source: Path, folder: Path) -> Path:
    os.utime(an_image(source))
    return folder


@pytest.mark.parametrize(
    "harmless", [copied, touched, moved, archived, moved_as_a_whole, of_an_older_version, notes_beside]
)
def test_no_complaint(harmless: Callable[[Path, Path], Path], packed: tuple[Path, Path]) -> None:
    assert stale(harmless(*packed)) is None


def test_of_a_file_whose_content_is_not_known_only_the_time_is_said_to_differ(packed: tuple[Path, Path]) -> None:
    """Of many images the content of some is known."""
    source, folder = packed
    manifest = read_manifest(folder)
    facts = manifest["facts"] | {"source": manifest["facts"]["source"] | {"sample": {}}}
    write_manifest(folder, "dataset", manifest["identity"], facts, manifest["files"])
    os.utime(an_image(source))
    said = str(stale(folder))
    assert "files 1 changed (of 1 only the time, not the size)" in said
    assert "used as they are, which is right if the files hold what they held; to take the changes in" in said
    an_image(source, "val").unlink()
    assert "1 removed" in str(stale(folder))
    assert "which is right if" not in str(stale(folder))


def test_an_image_added_to_a_folder_without_labels_is_seen(tmp_path: Path) -> None:
    source, folder = tmp_path / "scraps", tmp_path / "data/datasets/mine"
    source.mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(source / f"{number}.png")
    prepare_dataset(datasets.get("mine", str(source)), folder, str(source))
    assert stale(folder) is None
    shutil.copy(source / "0.png", source / "new.png")
    assert "files 1 added (new.png)" in str(stale(folder))


def test_another_source_that_is_not_there_is_named(packed: tuple[Path, Path]) -> None:
    """Where it is not there, packed images stand for it: a mistyped name must not pass in silence."""
    source, folder = packed
    said = str(stale(folder, source.with_name("imagez")))
    assert f"imagez does not exist: {folder}, which was packed from {source}, is used as it is" in said
    source.rename(source.with_name("elsewhere"))
    assert stale(folder, source) is None


def test_an_edit_after_the_project_was_moved_is_seen(packed: tuple[Path, Path]) -> None:
    folder = moved_as_a_whole(*packed)
    edited_in_place(folder.parents[2] / "images")
    assert "1 changed" in str(stale(folder))


def test_a_copied_project_is_compared_with_its_own_images(packed: tuple[Path, Path], tmp_path: Path) -> None:
    source, folder = packed
    shutil.copytree(source.parent, tmp_path / "copy", symlinks=True)
    copy = tmp_path / "copy" / folder.relative_to(source.parent)
    an_image(source).unlink()
    assert stale(copy) is None
    an_image(tmp_path / "copy" / source.name, "val").unlink()
    assert "files 1 removed" in str(stale(copy))


def test_a_copied_source_with_another_size_is_seen(packed: tuple[Path, Path]) -> None:
    source, folder = packed
    copied(source, folder)
    an_image(source).write_bytes(an_image(source).read_bytes() + b"\0")
    assert "files 1 changed (" in str(stale(folder))


def test_images_that_are_all_made_again_with_the_same_sizes_are_seen(packed: tuple[Path, Path]) -> None:
    """As by a script that writes a format without compression: only their content tells them from a copy."""
    source, folder = packed
    images = sorted(source.rglob("*.png"))
    for path in images:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = changes(folder)
    assert found is not None
    assert found[1].changed == len(images)


def test_a_copied_file_of_labels_with_other_labels_is_seen(tmp_path: Path) -> None:
    source = folder_of_images(tmp_path / "images", {"train": ["a", "b"], "val": ["a", "b"]})
    for split in ("train", "val"):
        lines = [f"{name}/{number}.png,{name}" for name in "ab" for number in range(3)]
        (source / split / "labels.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    folder = tmp_path / "data/datasets/mine"
    prepare_dataset(datasets.get("mine", str(source)), folder, str(source))
    copied(source, folder)
    assert stale(folder) is None
    labels = source / "train/labels.csv"
    labels.write_text(labels.read_text().replace(",a", ",x").replace(",b", ",a").replace(",x", ",b"))
    assert "files 1 changed (train/labels.csv)" in str(stale(folder))


@pytest.mark.parametrize("verb", ["check", "verify", "download", "train", "workflow"])
def test_a_command_says_it_first_and_works(verb: str, packed: tuple[Path, Path]) -> None:
    source, folder = packed
    an_image(source).unlink()
    root = folder.parents[2]
    (root / "config").mkdir()
    block = "{name: a, datasets: [mine], teachers: [digits-vit-s], students: [tiny-32], train_types: [supervised], "
    block += "recipes: [corrected], seeds: [0]}"
    (root / "config/config.yaml").write_text(
        f"grid: [{block}]\nsources: {{mine: {source}}}\ntraining: {{batch_size: 2}}\n"
    )
    more = {
        "check": [],
        "verify": ["data"],
        "download": ["mine", "--dataset-source", str(source)],
        "train": f"--dataset-name mine --dataset-source {source} --train-type supervised --student tiny-32 --epochs 1 "
        "--batch-size 2 --device cpu".split(),
    }
    command = [str(warm.command()), verb, *more.get(verb, [])]
    if verb == "workflow":
        snakefile = Path(__file__).parents[2] / "Snakefile"
        command = [str(warm.command().with_name("snakemake")), "-s", str(snakefile), "--cores", "1"]
        command += [str((folder / "manifest.json").relative_to(root))]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert f"warning: {source} has changed since " in said
    assert "files 1 removed" in said
    assert said.count("has changed since") == 1
    assert verb != "workflow" or "Nothing to be done" in said


def test_every_dataset_of_torchvision_names_its_files(tmp_path: Path) -> None:
    assert FILES.keys() == KNOWN.keys()
    spec = datasets.get("mine", f"torchvision:SVHN?root={tmp_path}")
    assert spec.local_files(None) == LocalFiles(tmp_path, ("train_32x32.mat", "test_32x32.mat"))
