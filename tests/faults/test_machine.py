"""Rows S09 and S10: several processes on a machine with several GPUs, and places where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clipkd.core import gpu_lease
from clipkd.runs import workers
from tests.faults.checks import fault

# Takes a lease as `clipkd` does, says what CUDA would see, and holds it until its input ends.
HOLDER = """
import os, sys
from clipkd.core import gpu_lease
{patch}
gpu_lease.lease("cuda")
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""
WITHOUT = {"patch": ""}


def no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WITHOUT, "patch", "gpu_lease.lease = lambda device: None")


def only_the_first_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: of several places on a GPU, a lease takes any."""
    patch = "import fcntl; fcntl.flock = lambda descriptor, how: None"
    monkeypatch.setitem(WITHOUT, "patch", patch)


class Holders(ExitStack):
    """Processes that hold a lease each."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.environment = os.environ | {"CUDA_VISIBLE_DEVICES": "4,GPU-aa,7", "TMPDIR": str(folder)}
        self.environment.pop("LOCAL_RANK", None)

    def start(self) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", HOLDER.format(**WITHOUT)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.callback(process.communicate)
        assert process.stdout
        return process, process.stdout.readline().strip()


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[Holders]:
    with Holders(tmp_path) as made:
        yield made


@fault("S09", **{"no lease": no_lease, "locks that lock nothing": only_the_first_is_looked_at})
def test_processes_side_by_side_get_different_gpus(holders: Holders) -> None:
    started = [holders.start() for _ in range(4)]
    seen = [gpu for _, gpu in started]
    assert sorted(seen[:3]) == ["4", "7", "GPU-aa"]
    assert seen[3] in seen[:3], "more processes than GPUs share"
    second = started[1]
    second[0].kill()
    second[0].wait()
    # All are held once but the one that two share, and the one whose holder was killed.
    assert holders.start()[1] == second[1]


@pytest.mark.parametrize(("device", "gpus"), [("cpu", "0,1"), ("cuda:1", "0,1"), ("cuda", "3"), ("auto", "")])
def test_a_choice_that_is_made_stays(monkeypatch: pytest.MonkeyPatch, device: str, gpus: str) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    gpu_lease.lease(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == gpus


def test_torchrun_gives_out_the_gpus_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    gpu_lease.lease("cuda")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def a_check_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SOCKET_BYTES", 10_000)


@fault("S10", **{"no check": a_check_that_passes})
def test_a_long_tmpdir_is_named_with_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    code = "from clipkd.runs import workers; workers.SOCKET_BYTES = {}; workers.start_server()"
    command = [sys.executable, "-c", code.format(workers.SOCKET_BYTES)]
    answer = subprocess.run(command, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True)
    assert answer.returncode == 1
    assert "MachineError" in answer.stderr
    assert "set TMPDIR" in answer.stderr
