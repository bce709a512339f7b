"""Rows S09, S10 and R13: several GPUs, places where nothing can be written, terminals that go away."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clipkd.core import gpu_lease
from clipkd.runs import workers
from clipkd.runs.verification import verify
from tests import warm
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


# Begins a training as a command does, with a line of progress for each epoch.
TRAINING = """
import sys
{patch}
from clipkd.cli import main
sys.exit(main({arguments!r}))
"""
FOR_LONG = {"patch": ""}


def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = "from clipkd.core import progress; import sys; progress.VOICE = sys.stderr"
    monkeypatch.setitem(FOR_LONG, "patch", patch)


def no_hangup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOR_LONG, "patch", "from clipkd.runs import interruption; interruption.SIGNALS = ()")


def training(data: Path, folder: Path, epochs: int) -> list[str]:
    """Return the command of a training."""
    arguments = ["train", "--data", data, "--dataset-name", "digits", "--train-type", "supervised", "--student"]
    arguments += ["tiny-32", "--epochs", epochs, "--batch-size", 512, "--device", "cpu", "--log-folder", folder]
    return [str(warm.python()), "-c", TRAINING.format(arguments=[str(word) for word in arguments], **FOR_LONG)]


@fault("R13", **{"writes that must succeed": deaf})
def test_a_training_goes_on_when_nobody_reads_what_it_says(digits_folder: Path, tmp_path: Path) -> None:
    with subprocess.Popen(training(digits_folder, tmp_path / "run", 3), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("epoch 1/3" in line for line in process.stderr)
        process.stderr.close()
        assert process.wait(120) == 0
    assert (tmp_path / "run/metrics.json").exists()


@pytest.mark.slow
def test_a_command_that_is_started_without_a_stream_works(digits_folder: Path, tmp_path: Path) -> None:
    words = ["train", "--data", digits_folder, "--dataset-name", "digits", "--train-type", "supervised", "--epochs", 1]
    words += ["--student", "tiny-32", "--batch-size", 512, "--device", "cpu", "--log-folder", tmp_path / "run"]
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "clipkd", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert verify([tmp_path]).damaged == []
    assert (tmp_path / "run/metrics.json").exists()


@fault("R13", **{"no signal heeded": no_hangup})
def test_a_training_is_saved_when_its_terminal_is_closed(digits_folder: Path, tmp_path: Path) -> None:
    child, terminal = pty.fork()  # the child's controlling terminal
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` ignores it, and the child would too
        command = training(digits_folder, tmp_path / "run", 4000)
        os.execv(command[0], command)
    said = b""
    while b"epoch 1/4000" not in said:
        said += os.read(terminal, 1000)
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 128 + signal.SIGHUP
    assert list((tmp_path / "run/.resume").glob("[0-9]*/manifest.json"))
