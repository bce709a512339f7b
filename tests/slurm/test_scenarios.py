"""The workflow on a real SLURM: jobs are killed, cancelled, out of time or memory, and SLURM gives no answer."""

from __future__ import annotations

import os
import signal

import pytest

from tests.slurm.project import Project, until

pytestmark = pytest.mark.slurm
RESULTS = ("metrics.json", "history.csv", "student.safetensors")
SUPERVISED = "corrected/digits/tiny-32/none/supervised/seed{}"
EMBED_KD = "corrected/digits/tiny-32/digits-vit-xs/embed-KD/seed{}"
STEPS_PER_SECOND_AT_MOST = 200


def check_equal(project: Project, local: Project) -> None:
    """Every student, metric and table is that of the undisturbed run on one machine, to the bit."""
    assert project.cells() == local.cells()
    for cell in local.cells():
        for name in RESULTS:
            assert project.result(cell, name) == local.result(cell, name), f"{cell}/{name}"
    assert project.tables() == local.tables()


def check_trained_once(project: Project) -> None:
    """No two processes trained a cell at the same time."""
    for cell in project.steps():
        assert not project.together(cell), cell


def went_on(log: str) -> bool:
    return "going on in epoch" in log


@pytest.fixture
def stormy(project) -> Project:
    """Few MB for the first attempt, so that one cell runs out of memory."""
    made = project()
    made.environment["TEST_HUNGRY"] = "supervised/seed3"
    return made


STORM = ("--set-resources", "train:mem_mb=1100 * attempt", "train:slurm_extra='--signal=TERM@40 --open-mode=append'")


def storm(project: Project) -> str:
    """Run the grid while jobs are killed, cancelled and out of time; return what the main process said."""
    killed, cancelled, late = SUPERVISED.format(0), SUPERVISED.format(1), SUPERVISED.format(2)
    main = project.snakemake(*STORM)
    until(lambda: project.reached(late, 30), "the third cell trains", 180)
    project.cluster.run("scontrol", "update", f"JobId={project.job(late)}", "TimeLimit=1")
    until(lambda: project.reached(killed, 30), "the first cell trains")
    os.kill(project.pids(killed)[0], signal.SIGKILL)
    until(lambda: project.reached(cancelled, 30), "the second cell trains")
    project.cluster.run("scancel", project.job(cancelled))
    return main.succeed(400)


def test_jobs_killed_cancelled_out_of_time_and_out_of_memory_end_with_the_same_students(stormy, local):
    said = storm(stormy)
    check_equal(stormy, local)
    check_trained_once(stormy)
    for number, how in enumerate(["killed", "cancelled", "out of time", "out of memory"]):
        cell = SUPERVISED.format(number)
        logs = stormy.logs(cell)
        assert len(logs) >= 2, f"{how}: {logs}"
        assert went_on(logs[-1]), f"{how}:\n" + "\n".join(logs)
    # SIGTERM comes before the end: nothing is lost. SIGKILL: what came after the last save.
    assert stormy.lost(SUPERVISED.format(1)) == 0
    assert stormy.lost(SUPERVISED.format(2)) == 0
    assert "stopped by SIGTERM" in stormy.logs(SUPERVISED.format(2))[0]
    assert 0 < stormy.lost(SUPERVISED.format(0)) < STEPS_PER_SECOND_AT_MOST
    assert said
