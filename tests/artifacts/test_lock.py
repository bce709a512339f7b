"""A folder's lock: one holder; a dead one's is taken over, and only where it is provably dead."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from clipkd.core import lock
from clipkd.core.errors import MachineError

HERE = lock.this_process()


def left_by(folder: Path, holder: lock.Holder) -> None:
    (folder / lock.NAME).write_text(json.dumps(asdict(holder)))


def test_held_and_given_back(tmp_path):
    with lock.acquire(tmp_path):
        refusal = pytest.raises(MachineError, match=f"being written by process {os.getpid()} on {HERE.host}: wait")
        with refusal, lock.acquire(tmp_path):
            pass
        assert json.loads((tmp_path / lock.NAME).read_text()) == asdict(HERE)
    with lock.acquire(tmp_path):
        pass
    assert (tmp_path / lock.NAME).read_text() == ""


@pytest.mark.parametrize(
    "dead",
    [
        replace(HERE, pid=2**22 + 1),
        replace(HERE, started="1"),
        replace(HERE, boot="an earlier start of the machine"),
    ],
    ids=["no such process", "its number is another's now", "before a restart"],
)
def test_a_dead_holders_lock_is_taken_over(dead, tmp_path):
    left_by(tmp_path, dead)
    with lock.acquire(tmp_path):
        pass


def test_where_the_file_system_has_no_locks_the_name_decides(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refused)
    with lock.acquire(tmp_path), pytest.raises(MachineError, match=f"process {os.getpid()}"), lock.acquire(tmp_path):
        pass


def test_a_holder_on_another_machine_may_live(tmp_path, monkeypatch):
    left_by(tmp_path, replace(HERE, host="elsewhere", pid=77))
    with (
        pytest.raises(MachineError, match=r"process 77 on elsewhere: wait for it; where it is certain .*, remove"),
        lock.acquire(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("answer", "is_taken"),
    [("echo RUNNING", False), ("echo CANCELLED", True), ("true", True), ("exit 1", False),
     ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True)],
)  # fmt: skip
def test_slurm_says_whether_a_job_on_another_machine_is_over(answer, is_taken, tmp_path, monkeypatch):
    """A stand-in for squeue; the real one is asked in tests/slurm."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\n{answer}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    left_by(tmp_path, replace(HERE, host="elsewhere", job="12"))
    if is_taken:
        with lock.acquire(tmp_path):
            pass
    else:
        with pytest.raises(MachineError, match=r"on elsewhere \(SLURM job 12\)"), lock.acquire(tmp_path):
            pass


def test_a_requeued_job_takes_over_from_its_earlier_start(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    left_by(tmp_path, replace(HERE, host="elsewhere", job="12"))
    with lock.acquire(tmp_path):
        pass


def test_of_eight_processes_one_proceeds(tmp_path):
    """Again and again; the one is then killed, and leaves its name."""
    for _ in range(20):
        children = {starter(tmp_path) for _ in range(8)}
        for _ in range(7):
            child, status = os.wait()
            children.remove(child)
            assert os.waitstatus_to_exitcode(status) == MachineError.exit_code
        (winner,) = children
        os.kill(winner, signal.SIGKILL)
        os.waitpid(winner, 0)
    assert (tmp_path / "writers").read_text() == "x" * 20


def starter(folder: Path) -> int:
    """Fork a process that takes the lock and waits for its end, or is refused; return its number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with lock.acquire(folder):
                with open(folder / "writers", "a") as stream:
                    stream.write("x")
                time.sleep(60)
        except MachineError as error:
            status = error.exit_code
        finally:
            os._exit(status)
    return child
