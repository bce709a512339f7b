"""Row S01: a workflow's main process, one of its jobs, or all of it is killed; one command goes on with it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clipkd.spec.layout import RUNS
from clipkd.workflow import session
from clipkd.workflow.resume import living, locked_in
from tests.faults.checks import FULL, amount, fault
from tests.workflow.test_resume import BIN
from tests.workflow.test_workflow import MINI, copy_workflow

CELLS = [f"corrected/digits/tiny-32/none/supervised/seed{seed}" for seed in (0, 1)]
FIRST = ["snakemake", "--cores", "2", "--configfile", "config/mini.yaml", "--", "runs"]
RESULTS = ("metrics.json", "history.csv", "student.safetensors")
KILLS_OF_A_RUN = 10


def after_a_crash(project: Path) -> list[str]:
    """Return the one command; the first one again, where the workflow had not come to begin."""
    if (project / session.FILE).exists():
        return ["clipkd", "resume"]
    if any((project / ".snakemake/locks").glob("*")):  # killed within an instant: Snakemake says what to do
        assert started(project, [FIRST[0], "--unlock", *FIRST[1:]]).wait(60) == 0
    return FIRST


def always_the_first(project: Path) -> list[str]:
    """The mutant: what people type who do not know the command."""
    return FIRST


def started(project: Path, command: list[str]) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(project / "log", "ab") as log:
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=project, env=environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def trainings(project: Path) -> list[int]:
    """Return the processes that train."""
    holders = [living(folder) for folder in locked_in(project / RUNS)]
    return [holder.pid for holder in holders if holder]


def killed(project: Path, process: subprocess.Popen[bytes], draw: random.Random, longest: float) -> bool:
    """Kill something after a random time, and wait for the main process; return whether there was something to kill."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(draw.uniform(0, longest))
        return False
    jobs = trainings(project)
    what = draw.choice(["main process", "job", "all"] if jobs else ["main process", "all"])
    if what == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid if what == "main process" else draw.choice(jobs), signal.SIGKILL)
    process.wait(300)
    return True


def disturbed(project: Path, kills: int, draw: random.Random, longest: float) -> int:
    """Kill a workflow so often, going on each time; then let it come to its end. Return the number of kills."""
    hit = 0
    try:
        process = started(project, FIRST)
        for _ in range(3 * kills):
            hit += killed(project, process, draw, longest)
            if hit == kills:
                break
            if process.poll() == 0:
                return hit
            process = started(project, after_a_crash(project))
        process.wait(300)
        if process.returncode != 0:
            process = started(project, after_a_crash(project))
            process.wait(300)
        assert process.returncode == 0, (project / "log").read_text()[-3000:]
    finally:
        for pid in [process.pid, *trainings(project)]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(pid), signal.SIGKILL)
    return hit


@pytest.fixture(scope="module")
def whole(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A workflow that nothing disturbed, and the seconds that it took."""
    project = copy_workflow(tmp_path_factory.mktemp("whole") / "project")
    (project / "config/mini.yaml").write_text(MINI.replace("epochs: 1", "epochs: 3"))
    shutil.copytree(digits_folder, project / "data")
    start = time.monotonic()
    assert started(project, FIRST).wait(300) == 0, (project / "log").read_text()[-3000:]
    return project, time.monotonic() - start


@fault("S01", **{"the-command": lambda monkeypatch: monkeypatch.setattr(HERE, "after_a_crash", always_the_first)})
@pytest.mark.skipif(not FULL, reason="`make test-faults`; tests/workflow/test_resume.py kills a few in `make test`")
def test_killed_workflows_go_on_with_one_command(
    whole: tuple[Path, float], tmp_path: Path, record_property: Any
) -> None:
    """Results are those of the undisturbed workflow, to the bit, and no state is left."""
    original, longest = whole
    draw, hit, wanted, runs = random.Random(1), 0, amount(2, 100), 0
    while hit < wanted:
        runs += 1
        project = copy_workflow(tmp_path / str(runs))
        shutil.copy(original / "config/mini.yaml", project / "config")
        shutil.copytree(original / "data", project / "data")
        hit += disturbed(project, min(KILLS_OF_A_RUN, wanted - hit), draw, 0.8 * longest)
        for cell in CELLS:
            for name in RESULTS:
                path = Path(RUNS / cell / name)
                assert (project / path).read_bytes() == (original / path).read_bytes(), path
            assert not (project / RUNS / cell / ".resume").exists()
    record_property("kills of a workflow or its jobs", hit)


HERE = sys.modules[__name__]
