"""A folder's lock: one holder; a dead one's is taken over, and only where it is provably dead."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from clipkd.core import lock
from clipkd.core.errors import MachineError

HERE = lock.this_process()


def left_by(folder: Path, holder: lock.Holder) -> None:
    (folder / lock.NAME).write_text(json.dumps(asdict(holder)))


@pytest.fixture(params=["links", "no links", "neither links nor locks"])
def links(request, monkeypatch):
    """File systems with links, without, and without the kernel's locks too."""

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if request.param != "links":
        monkeypatch.setattr(os, "link", refused)
    if "locks" in request.param:
        monkeypatch.setattr(lock.fcntl, "flock", refused)


def test_held_and_given_back(tmp_path, links):
    with lock.acquire(tmp_path):
        refusal = pytest.raises(MachineError, match=f"being written by process {os.getpid()} on {HERE.host}: wait")
        with refusal, lock.acquire(tmp_path):
            pass
        assert json.loads((tmp_path / lock.NAME).read_text()) == asdict(HERE)
    with lock.acquire(tmp_path):
        pass
    assert lock.newest(tmp_path).read_text() == lock.RELEASED
    for _ in range(3):  # files do not pile up: the newest and the one before it
        lock.take(tmp_path).release()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock-3", ".lock-4"]


@pytest.mark.parametrize(
    "dead",
    [replace(HERE, pid=2**22 + 1), replace(HERE, started="1")],
    ids=["no such process", "its number is another's now"],
)
def test_a_dead_holders_lock_is_taken_over(dead, tmp_path):
    left_by(tmp_path, dead)
    with lock.acquire(tmp_path):
        pass


def test_another_start_of_a_machine_of_this_name_may_be_another_machine(tmp_path):
    left_by(tmp_path, replace(HERE, boot="another start", pid=2**22 + 1))
    refusal = pytest.raises(MachineError, match=r"before this machine was restarted, or on another .* remove .*\.lock")
    with refusal, lock.acquire(tmp_path):
        pass


@pytest.fixture
def no_flock(monkeypatch):
    """A file system without the kernel's locks."""

    def refused(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refused)


def test_a_zombie_holds_nothing(tmp_path, no_flock):
    """A dead process whose parent has not asked for it yet: no kernel's lock, a name, and an entry in /proc."""
    child = os.fork()
    if child == 0:
        lock.take(tmp_path)
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert lock.named_in(lock.newest(tmp_path)).pid == child
    lock.take(tmp_path).release()
    os.waitpid(child, 0)


def test_a_living_holder_whose_number_means_nothing_here_is_known_by_the_kernels_lock(tmp_path, monkeypatch):
    """As in a container, with numbers of its own."""
    held = lock.take(tmp_path)
    monkeypatch.setattr(lock, "started", lambda pid: "")
    with pytest.raises(lock.Held):
        lock.take(tmp_path)
    os.close(held.descriptor)  # the control: it has ended
    lock.take(tmp_path).release()


@pytest.mark.parametrize("text", ["", '{"host": "cut o'], ids=["no name", "cut off"])
def test_a_lock_without_a_name_is_someones_who_is_about_to_write_it(text, tmp_path):
    path = tmp_path / lock.NAME
    path.write_text(text)
    with pytest.raises(MachineError, match="by another process: wait for it"), lock.acquire(tmp_path):
        pass
    os.utime(path, (time.time() - 2 * lock.SECONDS_TO_NAME,) * 2)  # its process died before it could
    lock.take(tmp_path).release()


@pytest.mark.parametrize("call", ["mkstemp", "fchmod", "flock", "pwrite", "ftruncate", "fsync", "link", "unlink"])
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_whoever_is_killed_while_taking_a_lock_leaves_none_without_a_name(call, is_done, tmp_path):
    """At each of its calls; the next one proceeds at once and tidies up."""
    module = {"mkstemp": tempfile, "flock": fcntl}.get(call, os)
    real = getattr(module, call)

    def struck(*given, **more):
        if is_done:
            real(*given, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        setattr(module, call, struck)
        lock.take(tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    lock.take(tmp_path).release()
    assert list(tmp_path.glob("*.tmp")) == []


def test_who_is_slow_to_write_its_name_gives_way(tmp_path, monkeypatch):
    """Between its exclusive creation and its name another one took the lock: the file looked abandoned."""
    put = lock.put

    def slow(descriptor, text):
        (tmp_path / ".lock-1").write_text(json.dumps(asdict(HERE)))
        put(descriptor, text)

    monkeypatch.setattr(lock, "put", slow)
    with pytest.raises(MachineError, match=f"process {HERE.pid}"), lock.acquire(tmp_path):
        pass
    assert [path.name for path in lock.all_of(tmp_path)] == [".lock-1"]


def test_where_the_file_system_has_no_locks_the_name_decides(tmp_path, no_flock):
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
    [("echo RUNNING", False), ("echo COMPLETING", False), ("echo CANCELLED", True), ("true", True), ("exit 1", False),
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


@pytest.mark.parametrize(
    ("nodes", "restarts", "is_taken"), [("1", "0", True), ("2", "1", True), ("2", "0", False)]
)  # fmt: skip
def test_a_requeued_job_takes_over_from_its_earlier_start(nodes, restarts, is_taken, tmp_path, monkeypatch):
    """Not from its own process on another of its nodes."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", nodes)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    monkeypatch.setattr(lock, "job_has_ended", lambda job: False)
    left_by(tmp_path, replace(HERE, host="elsewhere", job="12"))
    if is_taken:
        lock.take(tmp_path).release()
    else:
        with pytest.raises(lock.Held):
            lock.take(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("links", ["no links", "neither links nor locks"], indirect=True)
def test_of_eight_processes_one_proceeds(tmp_path, links):
    """Twice; the one is then killed, and leaves its name. (Where there are links: tests/faults/test_training.py.)"""
    for _ in range(2):
        children = {starter(tmp_path) for _ in range(8)}
        for _ in range(7):
            child, status = os.wait()
            children.remove(child)
            assert os.waitstatus_to_exitcode(status) == MachineError.exit_code
        (winner,) = children
        os.kill(winner, signal.SIGKILL)
        os.waitpid(winner, 0)
    assert (tmp_path / "writers").read_text() == "x" * 2


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
