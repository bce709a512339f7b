"""The main process on one machine is killed in the middle of a grid; one command goes on with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from clipkd.core import lock
from clipkd.core.errors import InputError, MachineError
from clipkd.core.files import write_json
from clipkd.workflow import resume, session
from tests.workflow.test_workflow import MINI, copy_workflow, snakemake

BIN = Path(sys.executable).parent
CELLS = [f"corrected/digits/tiny-32/none/supervised/seed{seed}" for seed in (0, 1)]
CONFIG = ("--configfile", "config/mini.yaml")
RUN = f"results/runs/{CELLS[0]}"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in a folder; what still runs at the end is killed, with all that it started, and so is what
    hangs."""
    processes, clocks = [], []

    def begin(project: Path, *command: str) -> subprocess.Popen[str]:
        processes.append(started(project, *command))
        clocks.append(threading.Timer(300, processes[-1].kill))
        clocks[-1].start()
        return processes[-1]

    yield begin
    for process, clock in zip(processes, clocks, strict=True):
        clock.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def started(project: Path, *command: str) -> subprocess.Popen[str]:
    # As for somebody who calls .venv/bin/snakemake and has not activated the environment.
    path = os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != BIN)
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [str(BIN / command[0]), *command[1:]], cwd=project, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def log(project: Path, cell: str, attempt: str = "*") -> str:
    """Return the log of an attempt at a cell; by default, of all."""
    pattern = f"{Path(cell).name}-*.attempt{attempt}.log"
    return "".join(path.read_text() for path in sorted((project / "logs/runs" / cell).parent.glob(pattern)))


def trainer(project: Path, cell: str) -> int | None:
    """Return the process that trains a cell and has come through an epoch."""
    folder = project / "results/runs" / cell
    if "epoch 1/" not in log(project, cell) or not (path := lock.newest(folder)):
        return None
    holder = lock.named_in(path)
    return holder.pid if holder else None


def training(project: Path, cells: list[str]) -> tuple[str, int]:
    """Wait until one of the cells trains; return it and its process."""
    end = time.monotonic() + 300
    while True:
        for cell in cells:
            if pid := trainer(project, cell):
                return cell, pid
        assert time.monotonic() < end, "no training began"
        time.sleep(0.1)


def said_until(text: str, process: subprocess.Popen[str]) -> str:
    """Return what a command says until a line with some text is there."""
    said = ""
    while text not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


@pytest.mark.slow
def test_a_killed_workflow_goes_on_with_one_command(tmp_path, start):
    """Trainings stand still while others look at them: how fast this machine is does not matter."""
    project = copy_workflow(tmp_path / "a project")
    (project / "config/mini.yaml").write_text(MINI.replace("epochs: 1", "epochs: 10"))
    main = start(project, "snakemake", "--cores", "1", *CONFIG, "--", "runs")
    first, pid = training(project, CELLS)
    os.kill(pid, signal.SIGSTOP)

    # Two main processes, the second past Snakemake's own lock.
    another = snakemake(project, *CONFIG, "--nolock", "--forceall")
    assert another.returncode == 1
    assert f"has a main process already: process {main.pid} on " in another.stdout

    main.send_signal(signal.SIGKILL)
    main.wait()
    assert lock.started(pid), "the training goes on without its main process"
    # Left alone, the folder is locked.
    locked = snakemake(project, *CONFIG)
    assert "cannot be locked" in locked.stdout
    assert locked.returncode == 1

    # The training saves itself, and goes on under the new main process; that is killed in the other cell.
    resumed = start(project, "clipkd", "resume")
    said_until(f"is still trained by process {pid} on ", resumed)
    os.kill(pid, signal.SIGCONT)
    (other,) = {*CELLS} - {first}
    _, orphan = training(project, [other])
    os.kill(orphan, signal.SIGSTOP)
    resumed.send_signal(signal.SIGKILL)
    assert "stopped by SIGTERM" in log(project, first, "1")

    # Now the training may finish; what it made is not made again.
    resumed = start(project, "clipkd", "resume", "--wait")
    said_until(f"is still trained by process {orphan} on ", resumed)
    os.kill(orphan, signal.SIGCONT)
    said = resumed.stdout.read()
    assert resumed.wait() == 0, said
    assert "resuming in epoch" in log(project, first, "2")
    assert log(project, other, "2") == "", "its stamp was there: no job looked at it again"
    assert all((project / "results/runs" / cell / "metrics.json").exists() for cell in CELLS)


def test_where_nothing_was_started_there_is_nothing_to_resume(tmp_path, start):
    resumed = start(tmp_path, "clipkd", "resume")
    said = resumed.communicate(timeout=60)[0]
    assert resumed.returncode == 2
    assert "nothing to resume: no workflow was started in" in said


STARTED = session.Started(["--cores", "1"], "local")


def test_the_last_command_is_remembered(tmp_path):
    (tmp_path / session.FILE).parent.mkdir()
    write_json(tmp_path / session.FILE, asdict(STARTED))
    assert session.last_started(tmp_path) == STARTED
    (tmp_path / session.FILE).write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        session.last_started(tmp_path)


def test_a_main_process_elsewhere_may_live(tmp_path):
    """Another machine's process can't be looked at: its lock may not reach here."""
    folder = (tmp_path / session.FILE).parent
    folder.mkdir()
    here, path = lock.this_process(), folder / session.LOCK
    path.write_text(json.dumps(asdict(replace(here, host="another-login-node"))))
    with pytest.raises(MachineError, match=r"process \d+ on another-login-node; one at a time; where it is certain"):
        session.take(tmp_path)
    # The control: on this machine the kernel knows that it is dead.
    path.write_text(json.dumps(asdict(replace(here, started="1"))))
    session.take(tmp_path).release()


def test_after_a_restart_one_option_gives_every_lock_back(tmp_path):
    """Not those of other machines; without the option, nothing is taken from a machine of the same name."""
    earlier = replace(lock.this_process(), boot="an earlier start")
    run, other, part = tmp_path / RUN, tmp_path / RUN / "other", tmp_path / "data/embeddings/.part.lock"
    main = (tmp_path / session.FILE).parent
    for folder in (run, other, part, main):
        folder.mkdir(parents=True)
        holder = replace(earlier, host="elsewhere") if folder == other else earlier
        (folder / (session.LOCK if folder == main else lock.NAME)).write_text(json.dumps(asdict(holder)))
    with pytest.raises(MachineError, match=r"before this machine was restarted, or .*`clipkd resume --after-restart`"):
        session.take(tmp_path)
    resume.release_earlier_boot(tmp_path)
    session.take(tmp_path).release()
    for folder in (run, part):
        lock.take(folder).release()
    with pytest.raises(lock.Held):
        lock.take(other)


@pytest.mark.parametrize(
    ("words", "is_ended"),
    [
        (["clipkd", "train", "--log-folder", "results/runs/corrected/digits/seed0"], True),
        (["clipkd", "train", "--seed", "0", "1"], True),
        (["snakemake", "--mode", "subprocess", "--target-jobs", "train:seed=0"], True),
        (["clipkd", "train", "--log-folder", "results/mine"], False),
        (["clipkd", "train", "--log-folder=results/mine"], False),
        (["clipkd", "train", "--log", "results/mine"], False),
        (["clipkd", "tables"], False),
        (["snakemake", "-n"], False),
    ],
)
def test_a_training_that_is_only_begun_is_stopped(words, is_ended, tmp_path):
    """It holds no lock yet. What is the user's own goes on, as does all in other folders."""
    (tmp_path / words[0]).write_text("echo begun; sleep 60; exit 0")
    other = tmp_path / "other"
    shutil.copytree(tmp_path, other)
    processes = [
        subprocess.Popen(["sh", *words], cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for folder in (tmp_path, other)
    ]
    try:
        assert [process.stdout.readline() for process in processes] == ["begun\n"] * 2
        waiter = threading.Thread(target=processes[0].wait, daemon=True)
        waiter.start()
        resume.end_orphans(tmp_path, let_finish=False, seconds=20)
        waiter.join(5 if is_ended else 0.2)
        assert waiter.is_alive() != is_ended
        assert processes[1].poll() is None
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("let_finish", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("words", "works", "is_killed"),
    [
        (["snakemake", "--target-jobs", "train:seed=0"], "time.sleep(2)", True),
        (["snakemake", "--target-jobs", "train:seed=0"], "subprocess.Popen(['true']); time.sleep(2)", True),
        (["snakemake", "--target-jobs", "train:seed=0"], "subprocess.run(['sleep', '2'])", False),
        (["clipkd", "train"], "time.sleep(2)", False),
    ],
)
def test_a_job_s_snakemake_that_hangs_is_killed(words, works, is_killed, let_finish, tmp_path, monkeypatch, capsys):
    """It hears no SIGTERM any more. A dead child (a zombie) does not count. Not while something works for it, and no
    training: that may yet save itself."""
    monkeypatch.setattr(resume, "SECONDS_ALONE", 0.5)
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); "
    )
    code += works
    (tmp_path / words[0]).write_text(code)
    process = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "begun\n"
    waiter = threading.Thread(target=process.wait, daemon=True)
    waiter.start()
    resume.end_orphans(tmp_path, let_finish, seconds=20)
    waiter.join(5)
    assert process.returncode == (-signal.SIGKILL if is_killed else 0)
    assert ("hangs: killed" in capsys.readouterr().err) == is_killed
