"""Row R06: wherever something is written, a full disk and a quota that is used up name the path and what is free."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from clipkd.core import disk
from clipkd.core.artifacts import building
from clipkd.core.download import Checksum, download
from clipkd.core.errors import MachineError
from clipkd.core.files import write_text
from clipkd.core.lock import acquire
from clipkd.data.packing import write_even
from clipkd.report.figures import style
from clipkd.runs.folder import save_student
from clipkd.runs.logging import CurveWriter
from clipkd.runs.unfinished import Checkpoints
from tests.data.servers import Site
from tests.faults.checks import fault, nothing, replaced
from tests.faults.test_store import can_unshare

BYTES = b"x" * 100_000
WEIGHTS = {"w": torch.zeros(10_000)}


def artefact(path: Path, write: Callable[[Path], object]) -> None:
    with building(path, "toy", {"a": 1}) as draft:
        write(draft.path)


def curves(folder: Path) -> None:
    writer = CurveWriter(folder, "0" * 16, "name", 1, {})
    for epoch in range(2000):
        writer.add(epoch, {"loss": 1.0})
    writer.close(True)


def downloaded(path: Path) -> None:
    site = Site()
    site.files["/x"] = BYTES
    try:
        download(f"{site.url}/x", path, Checksum("sha256", hashlib.sha256(BYTES).hexdigest()), "")
    finally:
        site.close()


def locked(folder: Path) -> None:
    folder.mkdir()
    with acquire(folder):
        pass


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_text(path, "x" * 5000),
    "array": lambda path: artefact(path, lambda draft: np.save(draft / "a.npy", np.zeros(10_000))),
    "packed images": lambda path: artefact(
        path, lambda draft: write_even(draft / "a.npy", [np.zeros((100, 100, 3), np.uint8)] * 8, (8, 100, 100, 3))
    ),
    "safetensors": lambda path: artefact(path, lambda draft: save_file(WEIGHTS, draft / "model.safetensors")),
    "manifest": lambda path: artefact(path, lambda draft: None),
    "checkpoint": lambda path: Checkpoints(path, {"a": 1}).save(1, WEIGHTS),
    "student": lambda path: save_student(WEIGHTS, path.with_suffix(".pt")),
    "curves": curves,
    "download": downloaded,
    "lock": locked,
    "figure": lambda path: style.save(Figure(), path, "figure"),
}


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond a few bytes: a limit of the kernel that every library meets."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the download's server
@fault("R06", words=replaced("clipkd.core.disk.full", nothing), path=replaced("clipkd.core.disk.FULL", ()))
def test_whatever_is_written_a_full_disk_names_the_path_and_the_free_bytes(tmp_path: Path) -> None:
    for name, write in WRITERS.items():
        path = tmp_path / name
        try:
            with full_disk():
                write(path)
        except MachineError as error:
            text = str(error)
        except Exception as error:
            pytest.fail(f"{name}: {error!r}")
        else:
            pytest.fail(f"{name}: written")
        assert f"can't write {path}" in text, name
        assert "File too large; " in text, name
        free = int(text.partition("; ")[2].partition(" bytes are free there")[0].replace(",", ""))
        assert free == pytest.approx(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize, rel=0.2)
        assert "make room and run the same command again" in text, name


def test_r06_a_full_disk_under_the_curves_is_one_error_without_a_thread_s_traceback(tmp_path: Path, monkeypatch):
    printed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    writer = CurveWriter(tmp_path, "0" * 16, "name", 1, {})
    writer.add(1, {"loss": 1.0})
    with full_disk(), pytest.raises(MachineError, match="File too large; "):
        writer.close(None)
    assert printed == []
    other = threading.Thread(target=lambda: 1 / 0)
    other.start()
    other.join()
    assert [ended.exc_type for ended in printed] == [ZeroDivisionError]


def test_r06_standard_output_on_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "clipkd", "list", "recipes"]
        answer = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert answer.returncode == 4
    assert "No space left on device; " in answer.stderr
    assert f"bytes are free in {Path.cwd()}" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_r06_a_quota_is_not_the_disk(tmp_path: Path) -> None:
    words = r"Disk quota exceeded; .* bytes are free there \(of the disk; your quota"
    with pytest.raises(MachineError, match=words), disk.room_for(tmp_path / "new/file"):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    with pytest.raises(PermissionError), disk.room_for(tmp_path):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.skipif(not can_unshare(), reason="this kernel lets nobody unshare")
def test_r06_a_full_disk_is_named_and_mended(tmp_path: Path) -> None:
    """A real file system of 2 MiB: the checkpoint that does not fit is refused in words, the one before is whole."""
    code = (
        "import sys, torch; from pathlib import Path; from clipkd.runs.unfinished import Checkpoints\n"
        "from clipkd.core.errors import MachineError\n"
        "saved = Checkpoints(Path(sys.argv[1]) / 'resume', {'a': 1})\n"
        "saved.save(1, {'w': torch.zeros(100_000)})\n"
        "try:\n    saved.save(2, {'w': torch.zeros(900_000)})\n"
        "except MachineError as error:\n    print(error)\n"
        "print([path.name for path in saved.steps()], saved.newest()['w'].shape)\n"
        "saved.save(3, {'w': torch.zeros(100_000)})\n"
        "print(len(saved.newest()['w']))\n"
    )
    place = tmp_path / "small"
    place.mkdir()
    script = f'mount -t tmpfs -o size=2m none {place} && exec {sys.executable} -c "$0" {place}'
    command = ["unshare", "-Urm", "sh", "-c", script, code]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert f"can't write {place}/resume/0000000002: No space left on device" in answer.stdout, answer.stderr
    assert "bytes are free there" in answer.stdout
    assert "['0000000001'] torch.Size([100000])" in answer.stdout
    assert answer.stdout.strip().endswith("100000")
