"""Extraction in parts: divided, killed and damaged extractions end with the same bytes, and run no view twice."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from clipkd.core.artifacts import read_manifest
from clipkd.core.errors import DataError, MachineError
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import parts, prepare
from clipkd.embeddings.extract import extract
from clipkd.embeddings.teacher import load
from clipkd.plugins import datasets, recipes, students, teachers
from clipkd.spec.layout import Layout
from clipkd.spec.views import full_views
from tests import warm

CPU = torch.device("cpu")
VIEWS = 256


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "VIEWS", VIEWS)


def stage(folder: Path, digits_folder: Path, vit_folder: Path):
    """Return store, dataset and teacher below a folder of its own."""
    folder.mkdir()
    (folder / "datasets").symlink_to(digits_folder / "datasets")
    layout, spec = Layout(folder), teachers.get(str(vit_folder))
    dataset = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    prepare.teacher(spec, layout, CPU)
    views = full_views(recipes.get("corrected"), dataset.spec, students.get("tiny-32"), spec)
    return layout.embeddings(dataset.spec, spec, views), dataset, load(spec, layout.teacher(spec), CPU)


def contents(store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.glob("*.npy")}


def total(dataset) -> int:
    return len(dataset.train_labels) + len(dataset.test_labels)


@pytest.fixture(scope="module")
def whole(digits_folder, vit_folder, tmp_path_factory):
    """The store of an extraction that nothing disturbed."""
    store, dataset, teacher = stage(tmp_path_factory.mktemp("whole") / "data", digits_folder, vit_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "VIEWS", VIEWS)
        extract(store, dataset, teacher, 64)
    assert teacher.forward_passes == read_manifest(store.folder)["facts"]["forward_passes"] == total(dataset)
    return contents(store)


def test_the_size_of_parts_moves_no_vector(whole, digits_folder, vit_folder, tmp_path):
    store, dataset, teacher = stage(tmp_path / "data", digits_folder, vit_folder)
    extract(store, dataset, teacher, 64)
    found = contents(store)
    moved = {name for name in whole if found[name] != whole[name]}
    assert moved <= {"train-mean.npy", "train-deviation.npy"}, "sums of other pieces may differ in their last digit"


def test_statistics_lie_in_the_store(whole, tmp_path):
    (tmp_path / "train.npy").write_bytes(whole["train.npy"])
    codes = np.load(tmp_path / "train.npy")
    assert codes.dtype == np.int16
    for name in ("train-grid", "train-mean", "train-deviation"):
        (tmp_path / f"{name}.npy").write_bytes(whole[f"{name}.npy"])
    grid, mean, deviation = (np.load(tmp_path / f"train-{name}.npy") for name in ("grid", "mean", "deviation"))
    values = (codes * grid[1].astype(np.float64) + grid[0]).reshape(-1, codes.shape[-1])
    np.testing.assert_allclose(mean, values.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(deviation, values.std(axis=0), rtol=1e-3)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_make_the_same_store(shards, whole, small_parts, digits_folder, vit_folder, tmp_path):
    store, dataset, teacher = stage(tmp_path / "data", digits_folder, vit_folder)
    for number in range(shards, 0, -1) if shards > 1 else []:
        assert extract(store, dataset, teacher, 64, (number, shards)) is None
        assert not store.folder.exists()
    assert teacher.forward_passes in (0, total(dataset))
    extract(store, dataset, teacher, 64)
    assert teacher.forward_passes == total(dataset), "joining runs no teacher"
    assert contents(store) == whole
    assert read_manifest(store.folder)["facts"]["forward_passes"] == total(dataset)
    assert not parts.folder_of(store).exists()


def test_a_damaged_part_is_made_again(whole, small_parts, digits_folder, vit_folder, tmp_path, capsys):
    store, dataset, teacher = stage(tmp_path / "data", digits_folder, vit_folder)
    extract(store, dataset, teacher, 64, (1, 2))
    done = teacher.forward_passes
    victim = next(parts.folder_of(store).iterdir()) / "vectors.npy"
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    extract(store, dataset, teacher, 64)
    assert f"{victim} is damaged" in capsys.readouterr().err
    assert total(dataset) < teacher.forward_passes <= total(dataset) + VIEWS
    assert done < total(dataset)
    assert contents(store) == whole


def test_a_full_disk_is_no_other_process(small_parts, digits_folder, vit_folder, tmp_path):
    """A lock that can't be written is not one that another process holds: nobody waits for that."""
    store, dataset, teacher = stage(tmp_path / "data", digits_folder, vit_folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(MachineError, match=r"can't write .*lock"):
            extract(store, dataset, teacher, 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_another_writer_removes_the_parts_first(small_parts, digits_folder, vit_folder, tmp_path, monkeypatch):
    """Two processes join: the second finds no parts, but the store."""
    store, dataset, teacher = stage(tmp_path / "data", digits_folder, vit_folder)
    extract(store, dataset, teacher, 64)
    monkeypatch.setattr(parts, "is_there", lambda *_: True)
    assert extract(store, dataset, teacher, 64).path == store.folder

    other, dataset, teacher = stage(tmp_path / "other", digits_folder, vit_folder)
    with pytest.raises(DataError):  # the control: without a store it is an error
        extract(other, dataset, teacher, 64)


def test_parts_of_other_images_are_not_joined(whole, small_parts, digits_folder, vit_folder, tmp_path):
    """A folder of images keeps its identity when its images change: content and digests tell."""
    store, dataset, teacher = stage(tmp_path / "data", digits_folder, vit_folder)
    manifest = {**dataset.artifact.manifest, "facts": {**dataset.artifact.facts, "content": "another"}}
    other = replace(dataset, artifact=replace(dataset.artifact, manifest=manifest))
    other.__dict__["digests"] = lambda split: 255 - dataset.digests(split)
    extract(store, other, teacher, 64, (1, 2))
    before = teacher.forward_passes
    extract(store, dataset, teacher, 64)
    assert teacher.forward_passes - before == total(dataset)
    assert contents(store) == whole


def worker(data: Path, vit_folder: Path) -> subprocess.Popen:
    """Start `clipkd extract` with small parts, on a teacher slowed down to 2 ms a batch."""
    flags = ["--views", "full", "--dataset-name", "digits", "--teacher-model", str(vit_folder), "--data", str(data)]
    code = (
        "import sys, time; from clipkd.embeddings import parts, teacher; from clipkd.cli import main\n"
        f"parts.VIEWS = {VIEWS}; embed = teacher.Teacher.embed\n"
        "teacher.Teacher.embed = lambda self, x: time.sleep(0.05) or embed(self, x)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [warm.python(), "-c", code, "extract", *flags, "--student", "tiny-32", "--threads", "1"]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_extraction_goes_on(whole, digits_folder, vit_folder, tmp_path):
    store, dataset, _ = stage(tmp_path / "data", digits_folder, vit_folder)
    process = worker(tmp_path / "data", vit_folder)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(parts.folder_of(store).glob("train-*/manifest.json"))) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not store.folder.exists()
    there = sum(json.loads(path.read_text())["facts"]["forward_passes"] for path in found(store))
    assert 3 * VIEWS <= there < total(dataset)

    process = worker(tmp_path / "data", vit_folder)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"{total(dataset) - there:,} views" in errors, "what was finished is not run again"
    assert contents(store) == whole
    assert read_manifest(store.folder)["facts"]["forward_passes"] == total(dataset)


def found(store) -> list[Path]:
    return sorted(
        path for path in parts.folder_of(store).glob("*/manifest.json") if not path.parent.name.startswith(".")
    )
