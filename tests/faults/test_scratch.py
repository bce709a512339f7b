"""Row M12: copies on a node's own disk are what was copied, are made once, and change nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipkd.core import scratch
from clipkd.core.artifacts import open_artifact
from clipkd.core.errors import DataError
from clipkd.core.scratch import SCRATCH, open_near
from clipkd.plugins import datasets
from clipkd.spec.layout import Layout
from tests import warm
from tests.faults.checks import fault, replaced
from tests.faults.processes import forked, waited

DIGITS = datasets.get("digits")
JOBS = 4


@pytest.fixture
def packed(digits_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The packed digits, and a scratch folder that the environment asks for, `tmp_path/local`."""
    folder = Path(shutil.copytree(digits_folder, tmp_path / "data")) / "datasets/digits"
    assert folder == Layout(tmp_path / "data").dataset(DIGITS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NODE_DISK", str(tmp_path / "local"))
        patch.setenv(SCRATCH, "$NODE_DISK")
        scratch.copies_folder.cache_clear()
        yield folder


def copies(folder: Path) -> list[Path]:
    """Return the copied files under the folder of a test."""
    return sorted((folder / "local").rglob("*.npy"))


def train(folder: Path, name: str) -> str:
    """Train a student in a process of its own, its folder `name`; return what it says."""
    words = "train --dataset-name digits --train-type supervised --student tiny-32 --epochs 1 --device cpu --threads 1"
    return warm.clipkd(*words.split(), "--log-folder", name, cwd=folder).stderr


def flipped(path: Path) -> None:
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.slow
def test_a_training_reads_copies_that_change_nothing_else(packed: Path, tmp_path: Path, monkeypatch) -> None:
    train(tmp_path, "copied")
    made = copies(tmp_path)
    assert {path.name for path in made} == {path.name for path in packed.glob("*.npy") if "names" not in path.name}
    for number, path in enumerate(made):
        (flipped, cut, Path.unlink)[number % 3](path)
    said = train(tmp_path, "altered")
    assert said.count("it is copied again") == sum(number % 3 < 2 for number in range(len(made)))
    assert said.count("are copied to") == 1
    assert "cop" not in train(tmp_path, "kept")
    monkeypatch.delenv(SCRATCH)
    train(tmp_path, "in-place")
    for name in ("copied", "altered", "kept"):
        for file in ("student.safetensors", "config.yaml"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "in-place" / file).read_bytes(), (name, file)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert not [path for path in files if b"/local" in path.read_bytes() and path.name != "env.json"]


@fault("M12", **{"the-hashes": replaced("clipkd.core.scratch.check_files", lambda folder, files: {})})
def test_a_copy_that_was_altered_or_cut_is_made_again(packed: Path, tmp_path: Path) -> None:
    whole = {path.name: path.read_bytes() for path in packed.glob("*.npy")}
    opened = open_near(packed, "dataset", DIGITS.identity())
    shutil.copytree(packed, opened.place, dirs_exist_ok=True)  # in the control nothing was copied
    for damage in (flipped, cut):
        for name in whole:
            damage(opened.place / name)
            again = open_near(packed, "dataset", DIGITS.identity())
            assert again.place == opened.place
            assert again.file(name).read_bytes() == whole[name], (damage.__name__, name)


@contextlib.contextmanager
def no_lock(path: Path, words: str) -> Iterator[None]:
    yield


@fault("M12", **{"the-lock": replaced("clipkd.core.scratch.alone", no_lock)})
def test_jobs_of_one_node_copy_once(packed: Path, tmp_path: Path) -> None:
    copied = shutil.copyfile

    def noted(source: Path, target: Path) -> None:
        (tmp_path / f"{source.name}-{os.getpid()}").touch()
        time.sleep(0.1)
        copied(source, target)

    def job() -> None:
        shutil.copyfile = noted  # type: ignore[assignment]
        assert tmp_path / "local" in open_near(packed, "dataset", DIGITS.identity()).file("train-images.npy").parents

    children = [forked(job) for _ in range(JOBS)]
    assert [waited(child) for child in children] == [0] * JOBS
    assert len(list(tmp_path.glob("train-images.npy-*"))) == 1


def full(packed: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(scratch, "free_bytes", lambda path: 5_000_000)
    return r"[\d,]+ bytes, of 5,000,000 that are free there 90% at most may be taken"


def unset(packed: Path, patch: pytest.MonkeyPatch) -> str:
    patch.delenv("NODE_DISK")
    return r"scratch folder '\$NODE_DISK', everything is read where it lies: the variable is not set here"


def open_to_others(packed: Path, patch: pytest.MonkeyPatch) -> str:
    folder = Path(os.environ["NODE_DISK"]) / f"clipkd-{os.geteuid()}"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    return f"{folder} is not a folder that only you can write"


def a_file(packed: Path, patch: pytest.MonkeyPatch) -> str:
    Path(os.environ["NODE_DISK"]).touch()
    return "Not a directory"


@pytest.mark.parametrize("trouble", [full, unset, open_to_others, a_file])
def test_without_a_place_for_copies_one_line_says_so(trouble: Callable, packed: Path, monkeypatch, capsys) -> None:
    said = trouble(packed, monkeypatch)
    for _ in range(1 if trouble is full else 2):
        assert open_near(packed, "dataset", DIGITS.identity()).place == packed
    lines = capsys.readouterr().err.splitlines()
    assert [bool(re.search(said, line)) for line in lines] == [True]


def test_a_damaged_source_is_refused_and_no_copy_of_it_kept(packed: Path, tmp_path: Path) -> None:
    flipped(packed / "train-images.npy")
    with pytest.raises(DataError, match=re.escape(f"{packed}/train-images.npy is damaged")):
        open_near(packed, "dataset", DIGITS.identity())
    assert copies(tmp_path) == []
    with pytest.raises(DataError):
        open_artifact(packed, "dataset")
