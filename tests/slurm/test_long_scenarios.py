"""Scenarios of minutes: the demo, preemption, a crashed node, no accounting; controls hang or submit twice."""

from __future__ import annotations

import time

import pytest

from tests.slurm.project import BIN, Project, until
from tests.slurm.test_scenarios import (
    CANCELLED,
    EMBED_KD,
    HUNGRY,
    KILLED,
    LATE,
    STEPS_BETWEEN_SAVES,
    check_equal,
    check_never_together,
    stormy,  # noqa: F401  (a fixture)
    went_on,
)

pytestmark = [pytest.mark.slurm, pytest.mark.long]
PATIENCE = 60
"""Seconds after the last job has ended in which a main process that will end, ends."""


def jobs_are_over(project: Project) -> bool:
    assert project.cluster is not None
    return project.cluster.run("squeue", "--noheader").stdout == ""


def hangs(main) -> bool:
    """Return whether a main process still waits long after its last job has ended."""
    time.sleep(PATIENCE)
    is_waiting = main.process.poll() is None
    main.kill()
    return is_waiting


def test_the_demo_makes_the_tables_that_one_machine_makes(tmp_path, cluster):
    projects = []
    for name, slurm in (("local", False), ("slurm", True)):
        project = Project(tmp_path / name, cluster if slurm else None)
        config = (project.folder / "config/demo.yaml").read_text()
        (project.folder / "config/test.yaml").write_text(config)
        project.snakemake(slurm=slurm).succeed(1800)
        projects.append(project)
    assert len(projects[0].cells()) == 40
    assert projects[0].cells() == projects[1].cells()
    assert projects[0].tables() == projects[1].tables()


@pytest.mark.parametrize("how", ["preempted", "node crashed"])
def test_jobs_that_slurm_takes_away_go_on(how, project, local):
    made = project()
    made.environment["TEST_SECONDS_A_STEP"] = "0.4"
    main = made.snakemake()
    cells = [KILLED, CANCELLED, LATE]
    until(lambda: all(made.reached(cell, 10) for cell in cells), "three cells train", 300)
    if how == "preempted":
        flags = ("--partition=urgent", "--exclusive", "--time=2", "--job-name=urgent", "--output=/dev/null")
        made.cluster.run("sbatch", *flags, "--wrap=sleep 5")
    else:
        made.cluster.stop_node()
        made.cluster.start_node()
    main.succeed(600)
    check_equal(made, local)
    check_never_together(made)
    taken_away = [cell for cell in local.cells() if len(made.logs(cell)) > 1]
    assert taken_away
    for cell in taken_away:
        assert went_on(made.logs(cell)[1]), made.logs(cell)
        assert made.lost(cell) <= STEPS_BETWEEN_SAVES


def test_trainings_of_seconds_in_one_job(project, local):
    made = project()
    before = len(made.cluster.queue())
    flags = ("--groups", "train=students", "--group-components", "students=6")
    # The members of a group run side by side: six with two CPUs each are more than the node has.
    main = made.snakemake(*flags)
    assert main.wait(400) == 1
    assert "has no node with 12 CPUs (the largest has 8)" in main.said
    assert len(made.cluster.queue()) == before
    made.snakemake(*flags, "--set-resources", "train:cpus_per_task=1").succeed(900)
    check_equal(made, local)
    assert len(made.cluster.queue()) - before == 2, "six trainings, and the report"


def test_without_accounting_a_cancelled_job_is_noticed(project, local):
    made = project("plain_cluster")
    made.environment["TEST_SECONDS_A_STEP"] = "0.2"
    main = made.snakemake()
    until(lambda: made.reached(CANCELLED, 10), "a cell trains", 600)
    assert "squeue (accounting is off" in main.said
    made.cluster.run("scancel", made.job(CANCELLED))
    main.succeed(900)
    check_equal(made, local)
    assert went_on(made.logs(CANCELLED)[1])


def test_control_the_plugin_alone_forgets_its_jobs_without_accounting(project):
    made = project("plain_cluster")
    main = made.snakemake("--no-hooks")
    until(lambda: len(made.cells()) == 6 and jobs_are_over(made), "all students are there", 300)
    assert hangs(main)


def test_control_the_plugin_alone_waits_for_a_cancelled_job(project):
    made = project()
    made.environment["TEST_SECONDS_A_STEP"] = "0.2"
    main = made.snakemake("--no-hooks")
    until(lambda: made.reached(CANCELLED, 10), "a cell trains", 600)
    made.cluster.run("scancel", made.job(CANCELLED))
    until(lambda: len(made.cells()) == 5 and jobs_are_over(made), "the other students are there", 300)
    assert hangs(main)


def test_control_few_attempts_forget_all_jobs_when_slurm_is_silent(stormy):  # noqa: F811
    main = stormy.snakemake("--slurm-status-attempts", "5")
    until(lambda: stormy.reached(KILLED, 10), "a cell trains", 600)
    flag = stormy.folder / "outage"
    flag.touch()
    time.sleep(20)
    flag.unlink()
    # The one that needs much memory is not tried again where it is killed in the outage.
    until(lambda: len(stormy.cells()) >= 5 and jobs_are_over(stormy), "the other students are there", 300)
    assert hangs(main)


def test_slurm_is_silent_for_minutes(stormy, local):  # noqa: F811
    main = stormy.snakemake()
    until(lambda: stormy.reached(KILLED, 10), "a cell trains", 600)
    flag = stormy.folder / "outage"
    flag.touch()
    time.sleep(240)
    flag.unlink()
    main.succeed(300)
    check_equal(stormy, local)
    # The one that needs much memory is killed for it once.
    assert all(len(stormy.logs(cell)) == 1 + (cell == HUNGRY) for cell in local.cells())


def test_control_unlocked_by_hand_a_cell_is_submitted_twice(project):
    """What `clipkd resume` is for. (Each run folder's lock still keeps the second training out.)"""
    made = project()
    made.environment["TEST_SECONDS_A_STEP"] = "0.5"
    main = made.snakemake()
    until(lambda: made.reached(EMBED_KD.format(0), 10), "a cell trains", 600)
    main.kill()
    made.snakemake("--unlock").succeed()
    main = made.snakemake()

    def comments() -> list[str]:
        return made.cluster.run("squeue", "--noheader", "--format=%k").stdout.split()

    until(lambda: len(comments()) > len(set(comments())), "two jobs for one cell", 400)
    main.kill()
    # And one command still gets it right.
    made.environment["TEST_SECONDS_A_STEP"] = "0"
    made.start(str(BIN / "clipkd"), "resume").succeed(900)
    check_never_together(made)
