"""Damage to what is stored: every flipped byte and truncation is found before use, also by a machine that remembers."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from clipkd.cli import main
from clipkd.core import artifacts, verified
from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import DataError
from clipkd.embeddings import prepare
from clipkd.spec import cells
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample

CPU = torch.device("cpu")
FLIPS, TRUNCATIONS = 1000, 200


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch) -> Path:
    """A memory of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/clipkd/verified"


@pytest.fixture(scope="module")
def made(digits_folder, vit_folder, tmp_path_factory) -> Path:
    """A folder with one real artefact of every kind that holds arrays."""
    data = tmp_path_factory.mktemp("store") / "data"
    shutil.copytree(digits_folder, data)
    layout = Layout(data, sample=Sample(2))
    for train_type in ("vanilla", "embed-KD"):
        cell = cells.Cell("corrected", "digits", "tiny-32", str(vit_folder), train_type, 0)
        prepare.for_training(cell, layout, CPU, 256)
    return data


@pytest.fixture
def data(made, tmp_path) -> Path:
    """A copy of it, old enough to be remembered."""
    return Path(shutil.copytree(made, tmp_path / "data"))


def opened(folder: Path):
    """Open an artefact as a training does, and read all of it."""
    artifact = open_artifact(folder, artifacts.read_manifest(folder)["kind"])
    return {name: artifact.file(name).read_bytes() for name in artifact.manifest["files"]}


def folders(data: Path) -> list[Path]:
    return sorted(path.parent for path in data.rglob("manifest.json"))


@pytest.fixture
def without_races(monkeypatch):
    """Let files be remembered at once: the tests do not wait for their time stamps to grow old."""
    monkeypatch.setattr(verified, "RACY_SECONDS", 0.0)
    monkeypatch.setattr(verified, "SMALL_BYTES", 0)


def test_every_flip_and_truncation_is_found(data, without_races) -> None:
    kinds = [artifacts.read_manifest(folder)["kind"] for folder in folders(data)]
    assert set(kinds) == {"dataset", "teacher", "embeddings", "prototypes", "head"}
    # Small files whole; of large ones only the check of their hash is repeated, so their bytes are few here.
    for path in data.rglob("*-images.npy"):
        shrink(path)
    files = [path for folder in folders(data) for path in sorted(folder.iterdir()) if path.is_file()]
    assert len(files) > 20
    for folder in folders(data):
        opened(folder)
    draw, found = random.Random(0), 0
    for number in range(FLIPS + TRUNCATIONS):
        path = files[number % len(files)]
        whole, before = path.read_bytes(), path.stat()
        if number < FLIPS:
            damaged = bytearray(whole)
            damaged[draw.randrange(len(whole))] ^= draw.randint(1, 255)
        else:
            damaged = whole[: draw.randrange(len(whole))]
        path.write_bytes(damaged)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time tells nothing
        with pytest.raises(DataError, match=path.parent.name):
            opened(path.parent)
        found += 1
        path.write_bytes(whole)
    assert found == FLIPS + TRUNCATIONS
    for folder in folders(data):
        opened(folder)


def shrink(path: Path) -> None:
    """Shorten a packed array and seal the dataset again, so that 1,200 hashes of it take no minute."""
    array = np.load(path)[:20]
    np.save(path, array)
    manifest = artifacts.read_manifest(path.parent)
    manifest["files"][path.name] = artifacts.entry_of(path)
    arguments = (manifest[name] for name in ("kind", "identity", "facts", "files"))
    artifacts.write_manifest(path.parent, *arguments)


def test_without_the_check_damage_is_read(data, monkeypatch) -> None:
    """The control: it is the check that finds it, nothing else."""
    monkeypatch.setattr(artifacts, "check_file", lambda *_: None)
    store = next(path.parent for path in data.rglob("train.npy"))
    whole = (store / "train.npy").read_bytes()
    (store / "train.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert opened(store)["train.npy"] != whole


def count_hashes(monkeypatch) -> list[Path]:
    hashed: list[Path] = []
    real = artifacts.sha256
    monkeypatch.setattr(artifacts, "sha256", lambda path: hashed.append(path) or real(path))
    return hashed


def test_a_machine_hashes_once(data, memory, monkeypatch, without_races) -> None:
    store = next(path.parent for path in data.rglob("train.npy"))
    hashed = count_hashes(monkeypatch)
    opened(store)
    first = len(hashed)
    assert first == len(artifacts.read_manifest(store)["files"])
    opened(store)
    assert len(hashed) == first
    monkeypatch.setenv(verified.ALWAYS, "always")
    opened(store)
    assert len(hashed) == 2 * first
    monkeypatch.delenv(verified.ALWAYS)
    (file,) = memory.glob("*.json")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_copy_elsewhere_is_hashed(data, tmp_path, monkeypatch, without_races) -> None:
    store = next(path.parent for path in data.rglob("train.npy"))
    opened(store)
    hashed = count_hashes(monkeypatch)
    opened(Path(shutil.copytree(store, tmp_path / "copy")))
    assert hashed


def test_a_file_that_was_just_written_is_not_remembered(data, memory, monkeypatch) -> None:
    monkeypatch.setattr(verified, "SMALL_BYTES", 0)
    store = next(path.parent for path in data.rglob("train.npy"))
    (store / "train.npy").touch()
    hashed = count_hashes(monkeypatch)
    opened(store)
    opened(store)
    assert hashed.count(store / "train.npy") == 2
    long_ago = time.time_ns() + int(60e9)
    monkeypatch.setattr(time, "time_ns", lambda: long_ago)
    opened(store)
    opened(store)
    assert hashed.count(store / "train.npy") == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"/x": 3}', "\xff"])
def test_a_damaged_memory_is_no_memory(text, data, memory, monkeypatch, without_races) -> None:
    store = next(path.parent for path in data.rglob("train.npy"))
    opened(store)
    (file,) = memory.glob("*.json")
    file.write_text(text, encoding="latin-1")
    hashed = count_hashes(monkeypatch)
    opened(store)
    assert hashed


def test_a_memory_that_others_can_write_is_ignored(data, memory, monkeypatch, without_races) -> None:
    store = next(path.parent for path in data.rglob("train.npy"))
    opened(store)
    (file,) = memory.glob("*.json")
    file.chmod(0o666)
    hashed = count_hashes(monkeypatch)
    opened(store)
    assert hashed


def test_a_home_that_is_a_file_fails_nothing(data, tmp_path, monkeypatch, without_races) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    opened(next(path.parent for path in data.rglob("train.npy")))


def clipkd(*arguments, **variables) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "clipkd", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)


def test_verify_lists_what_is_damaged(data, tmp_path, capsys) -> None:
    assert main(["verify", str(data)]) == 0
    count = len(folders(data))
    assert f"{count} sound, 0 damaged" in capsys.readouterr().out

    first, second = sorted(data.rglob("train*.npy"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    (data / "datasets/.digits.x.tmp").mkdir()
    answer = clipkd("verify", data)
    assert answer.returncode == 3
    assert f"{first} is missing" in answer.stdout
    assert f"{second} is damaged" in answer.stdout
    assert ".digits.x.tmp" in answer.stdout
    assert "Traceback" not in answer.stderr


def test_verify_needs_folders_that_are_there(tmp_path) -> None:
    answer = clipkd("verify", tmp_path / "nowhere")
    assert answer.returncode == 2
    assert "nowhere is not a folder" in answer.stderr
