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
from pathlib import Path

import pytest

from clipkd.core import lock
from clipkd.core.errors import InputError, MachineError
from clipkd.workflow import recovery as adoption
from clipkd.workflow import resume as resumption
from clipkd.workflow import session as main_process
from tests.workflow.test_workflow import MINI, copy_workflow

BIN = Path(sys.executable).parent
CELLS = [f"corrected/digits/tiny-32/none/supervised/seed{seed}" for seed in (0, 1)]
CONFIG = ("--configfile", "config/mini.yaml")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in a folder; what still runs at the end is killed, with all that it started."""
    processes = []

    def begin(project: Path, *command: str) -> subprocess.Popen[str]:
        processes.append(started(project, *command))
        return processes[-1]

    yield begin
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def started(project: Path, *command: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [str(BIN / command[0]), *command[1:]], cwd=project, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def trainer(project: Path, cell: str) -> int | None:
    """Return the process that trains a cell and has come through an epoch."""
    log = project / f"logs/runs/{cell}.log"
    path = project / "results/runs" / cell / lock.NAME
    if not log.exists() or "epoch 1/" not in log.read_text() or not path.exists():
        return None
    return (json.loads(path.read_text() or "{}")).get("pid")


def training(project: Path, cells: list[str]) -> tuple[str, int]:
    """Wait until one of the cells trains; return it and its process."""
    end = time.monotonic() + 300
    while True:
        for cell in cells:
            if pid := trainer(project, cell):
                return cell, pid
        assert time.monotonic() < end, "no training began"
        time.sleep(0.1)


def test_a_killed_workflow_goes_on_with_one_command(tmp_path, start):
    project = copy_workflow(tmp_path / "a project")
    (project / "config/mini.yaml").write_text(MINI.replace("epochs: 1", "epochs: 40"))
    arguments = ("--cores", "1", *CONFIG)
    targets = [f"results/runs/{cell}/metrics.json" for cell in CELLS]
    main = start(project, "snakemake", *arguments, "--", *targets)
    first, pid = training(project, CELLS)

    # Two main processes, the second past Snakemake's own lock.
    another = start(project, "snakemake", *arguments, "--nolock", "--forceall")
    said = another.communicate(timeout=200)[0]
    assert another.returncode == 1
    assert f"has a main process already: process {main.pid} on " in said

    main.send_signal(signal.SIGKILL)
    main.wait()
    assert lock.started(pid), "the training goes on without its main process"
    # Left alone, the folder is locked.
    locked = start(project, "snakemake", *arguments)
    assert "cannot be locked" in locked.communicate(timeout=200)[0]
    assert locked.returncode == 1

    # The training saves itself, and goes on under the new main process; that is killed in the other cell.
    resumed = start(project, "clipkd", "resume")
    (other,) = {*CELLS} - {first}
    _, orphan = training(project, [other])
    resumed.send_signal(signal.SIGKILL)
    said = resumed.communicate()[0]
    assert f"is still trained by process {pid} on " in said
    assert "stopped by SIGTERM" in (project / f"logs/runs/{first}.attempt1.log").read_text()

    # Now the training may finish; what it made is not made again.
    resumed = start(project, "clipkd", "resume", "--wait")
    said = resumed.communicate(timeout=300)[0]
    assert resumed.returncode == 0, said
    assert f"is still trained by process {orphan} on " in said
    assert "going on in epoch" in (project / f"logs/runs/{first}.attempt2.log").read_text()
    assert "nothing to do" in (project / f"logs/runs/{other}.attempt2.log").read_text()
    assert all((project / target).exists() for target in targets)

    # Snakemake's records are lost, and a result is edited with its time kept: Snakemake sees nothing, tables refuse it.
    shutil.rmtree(project / ".snakemake")
    path = project / f"results/runs/{first}/metrics.json"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text(path.read_text().replace('"top1": 0.', '"top1": 0.9', 1))
    os.utime(path, ns=times)
    tables = start(project, "snakemake", *arguments, "--", "tables")
    said = tables.communicate(timeout=200)[0]
    assert tables.returncode == 1
    assert f"{path.relative_to(project)} is damaged" in said
    assert not list((project / "results").glob("tables/accuracy*"))


def test_where_nothing_was_started_there_is_nothing_to_resume(tmp_path, start):
    resumed = start(tmp_path, "clipkd", "resume")
    said = resumed.communicate(timeout=60)[0]
    assert resumed.returncode == 2
    assert "nothing to resume: no workflow was started in" in said


STARTED = main_process.Started(["--cores", "1"], "local")


def test_the_last_command_is_remembered(tmp_path):
    descriptor = main_process.take(tmp_path)
    main_process.write(descriptor, STARTED, None)
    os.close(descriptor)
    assert main_process.last_started(tmp_path) == STARTED
    (tmp_path / main_process.FILE).write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        main_process.last_started(tmp_path)


def test_a_main_process_elsewhere_may_live(tmp_path):
    """Another machine's process can't be looked at: its lock may not reach here."""
    descriptor = main_process.take(tmp_path)
    here = lock.this_process()
    elsewhere = lock.Holder("another-login-node", here.boot, here.pid, here.started, None)
    main_process.write(descriptor, STARTED, elsewhere)
    os.close(descriptor)
    with pytest.raises(MachineError, match=r"process \d+ on another-login-node; one at a time; where it is certain"):
        main_process.take(tmp_path)
    # The control: on this machine the kernel knows that it is dead.
    path = tmp_path / main_process.FILE
    path.write_text(path.read_text().replace("another-login-node", here.host).replace(here.started, "1"))
    os.close(main_process.take(tmp_path))


@pytest.mark.parametrize(
    ("words", "is_ended"),
    [
        (["clipkd", "train", "--log-folder", "results/runs/corrected/digits/seed0"], True),
        (["clipkd", "train", "--seed", "0", "1"], True),
        (["snakemake", "--mode", "subprocess", "--target-jobs", "train:seed=0"], True),
        (["clipkd", "train", "--log-folder", "results/mine"], False),
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
        resumption.end_orphans(tmp_path, let_finish=False, seconds=20)
        waiter.join(5 if is_ended else 0.2)
        assert waiter.is_alive() != is_ended
        assert processes[1].poll() is None
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("let_finish", [False, True])
@pytest.mark.parametrize(
    ("words", "works", "is_killed"),
    [
        (["snakemake", "--target-jobs", "train:seed=0"], False, True),
        (["snakemake", "--target-jobs", "train:seed=0"], True, False),
        (["clipkd", "train"], False, False),
    ],
)
def test_a_job_s_snakemake_that_hangs_is_killed(words, works, is_killed, let_finish, tmp_path, monkeypatch, capsys):
    """It hears no SIGTERM any more. Not while something works for it, and no training: that may yet save itself."""
    monkeypatch.setattr(resumption, "SECONDS_ALONE", 0.5)
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); "
    )
    code += "subprocess.run(['sleep', '2'])" if works else "time.sleep(2)"
    (tmp_path / words[0]).write_text(code)
    process = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "begun\n"
    waiter = threading.Thread(target=process.wait, daemon=True)
    waiter.start()
    resumption.end_orphans(tmp_path, let_finish, seconds=20)
    waiter.join(5)
    assert process.returncode == (-signal.SIGKILL if is_killed else 0)
    assert ("does nothing and does not end: killed" in capsys.readouterr().err) == is_killed


def test_targets_that_come_first_are_not_taken_for_what_is_cleaned_up(monkeypatch):
    from snakemake.cli import get_argument_parser

    monkeypatch.setattr(
        resumption, "SNAKEMAKE", [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    )
    said = resumption.call("--cleanup-metadata", [*resumption.SNAKEMAKE, "target", "--cores", "1"], "a", "b").stdout
    understood = get_argument_parser().parse_args(json.loads(said))
    assert [*map(str, understood.cleanup_metadata)] == ["a", "b"]
    assert {*understood.targets} == {"target"}


def test_only_whole_outputs_are_taken_over(tmp_path, digits_folder):
    """Snakemake marks what it has not seen end; the manifest says what is whole."""
    from base64 import urlsafe_b64encode

    shutil.copytree(digits_folder, tmp_path / "data")
    whole = "data/datasets/digits/manifest.json"
    marks = tmp_path / adoption.MARKS
    marks.mkdir(parents=True)
    long = "results/" + "x" * 300 + "/manifest.json"
    for output in (whole, "data/embeddings/none/manifest.json", long):
        pieces = urlsafe_b64encode(output.encode()).decode()
        folder = marks
        while len(pieces) > 254:
            folder, pieces = folder / f"@{pieces[:254]}", pieces[254:]
        folder.mkdir(exist_ok=True)
        (folder / pieces).touch()
    assert set(map(str, adoption.marked(marks))) == {whole, "data/embeddings/none/manifest.json", long}
    assert list(map(str, adoption.finished(tmp_path))) == [whole]
    array = tmp_path / "data/datasets/digits/test-labels.npy"
    array.write_bytes(array.read_bytes()[:-1] + b"x")
    assert adoption.finished(tmp_path) == []
