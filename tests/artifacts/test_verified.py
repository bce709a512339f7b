"""What a machine remembers of the files that it has hashed, and `clipkd verify`, which asks no memory."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from clipkd.cli import main
from clipkd.core import artifacts, verified
from clipkd.core.artifacts import building, open_artifact


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch) -> Path:
    """A memory of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/clipkd/verified"


@pytest.fixture
def store(tmp_path) -> Path:
    with building(tmp_path / "data/store", "dataset", {"made": "for a test"}) as draft:
        for name in ("first", "second"):
            np.save(draft.path / f"{name}.npy", np.arange(9))
    return tmp_path / "data/store"


@pytest.fixture
def without_races(monkeypatch):
    """Let files be remembered at once: the tests do not wait for their time stamps to grow old."""
    monkeypatch.setattr(verified, "RACY_SECONDS", 0.0)
    monkeypatch.setattr(verified, "SMALL_BYTES", 0)


@pytest.fixture
def hashed(monkeypatch) -> list[Path]:
    """The files that have been hashed."""
    found: list[Path] = []
    real = artifacts.sha256
    monkeypatch.setattr(artifacts, "sha256", lambda path: found.append(path) or real(path))
    return found


def opened(folder: Path) -> None:
    """Open an artefact as a training does, and read all of it."""
    artifact = open_artifact(folder, "dataset")
    for name in artifact.manifest["files"]:
        artifact.file(name).read_bytes()


def test_a_machine_hashes_once(store, hashed, memory, monkeypatch, without_races) -> None:
    hashed.clear()
    opened(store)
    assert len(hashed) == 2
    opened(store)
    assert len(hashed) == 2
    monkeypatch.setenv(verified.ALWAYS, "always")
    opened(store)
    assert len(hashed) == 4
    (file,) = memory.glob("*.json")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_copy_elsewhere_is_hashed(store, tmp_path, hashed, without_races) -> None:
    opened(store)
    hashed.clear()
    opened(Path(shutil.copytree(store, tmp_path / "copy")))
    assert hashed


def test_a_file_that_was_just_written_is_not_remembered(store, hashed, monkeypatch) -> None:
    monkeypatch.setattr(verified, "SMALL_BYTES", 0)
    (store / "first.npy").touch()
    hashed.clear()
    opened(store)
    opened(store)
    assert hashed.count(store / "first.npy") == 2
    later = time.time_ns() + int(60e9)
    monkeypatch.setattr(time, "time_ns", lambda: later)
    opened(store)
    opened(store)
    assert hashed.count(store / "first.npy") == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"/x": 3}', "\xff"])
def test_a_damaged_memory_is_no_memory(text, store, memory, hashed, without_races) -> None:
    opened(store)
    (file,) = memory.glob("*.json")
    file.write_text(text, encoding="latin-1")
    hashed.clear()
    opened(store)
    assert hashed


def test_a_home_that_is_a_file_fails_nothing(store, tmp_path, monkeypatch, without_races) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    opened(store)


def test_memories_of_artifacts_that_are_long_gone_are_deleted(tmp_path, without_races):
    for name in ("gone", "here"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        memory = verified.Memory(tmp_path / name)
        memory.note(tmp_path / name / "file", verified.stamp(tmp_path / name / "file"), "0" * 64)
        memory.save()
        if name == "gone":
            (old,) = verified.folder().iterdir()
            os.utime(old, (0, 0))
    assert [path.name for path in verified.folder().iterdir()] == [verified.Memory(tmp_path / "here").name]


def test_verify_lists_what_is_damaged(store, capsys) -> None:
    shutil.copytree(store, store.with_name("other"))
    assert main(["verify", str(store.parent)]) == 0
    assert "2 sound, 0 damaged" in capsys.readouterr().out

    missing, damaged = store / "first.npy", store.with_name("other") / "second.npy"
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (store.parent / ".digits.x.tmp").mkdir()
    assert main(["verify", str(store.parent)]) == 3
    said = capsys.readouterr().out
    assert f"{missing} is missing" in said
    assert f"{damaged} is damaged" in said
    assert ".digits.x.tmp" in said


def test_verify_needs_folders_that_are_there(tmp_path, capsys, monkeypatch) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["verify"]) == 2
    assert "there is neither data nor results here" in capsys.readouterr().err
    (tmp_path / "data").mkdir()  # a project without results yet
    assert main(["verify"]) == 0
