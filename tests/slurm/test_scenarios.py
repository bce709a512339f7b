"""The workflow on a real SLURM: jobs are killed, cancelled, out of time or memory, and SLURM gives no answer."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import time

import pytest

from tests.slurm.project import BIN, EPOCHS, GRID, Project, comment_of, until

pytestmark = pytest.mark.slurm
RESULTS = ("metrics.json", "history.csv", "student.safetensors")
SUPERVISED = "corrected/digits/tiny-32/none/supervised/seed{}"
EMBED_KD = "corrected/digits/tiny-32/digits-vit-xs/embed-KD/seed{}"
KILLED, CANCELLED, LATE, HUNGRY = map(SUPERVISED.format, range(4))
ENDED, UNDISTURBED = map(EMBED_KD.format, range(2))
STEPS_BETWEEN_SAVES = 5
"""At most: a step takes TEST_SECONDS_A_STEP at least, and a save is due after half a second."""
STORM = ("--set-resources", "train:slurm_extra='--signal=TERM@55 --open-mode=append'")
"""SIGTERM soon after the limit is one minute."""
LITTLE_MB = 1100
"""Memory that the first attempt at one cell does not find enough."""
OUTAGE = """\
#!/bin/sh
[ -e {flag} ] && {{ echo asked >> {flag}; echo "slurm: Unable to contact slurm controller" >&2; exit 1; }}
exec {real} "$@"
"""


def check_equal(project: Project, local: Project) -> None:
    """Every student, metric and table is that of the undisturbed run on one machine, to the bit."""
    assert project.cells() == local.cells()
    for cell in local.cells():
        for name in RESULTS:
            assert project.result(cell, name) == local.result(cell, name), f"{cell}/{name}"
    assert project.tables() == local.tables()


def check_never_together(project: Project) -> None:
    """No two processes trained a cell at the same time."""
    for cell in project.steps():
        assert not project.together(cell), cell


def went_on(log: str) -> bool:
    return "resuming in epoch" in log


@pytest.fixture
def stormy(project) -> Project:
    """Slow trainings, one of which needs much memory; status commands that can be made to fail."""
    made = project()
    made.environment |= {"TEST_HUNGRY": "supervised/seed3", "TEST_SECONDS_A_STEP": "0.4"}
    made.edit("workflow/rules/runs.smk", 'memory("train", TRAIN_MB)', f'memory("train", {LITTLE_MB})')
    for name in ("squeue", "sacct"):
        made.put_command(name, OUTAGE.format(flag=shlex.quote(str(made.folder / "outage")), real=shutil.which(name)))
    return made


def storm(project: Project, *options: str, outage: float = 30) -> str:
    """Run the grid while one job is killed, one late, one hungry, one cancelled in its training, one after it.

    Return what the main process said.
    """
    project.environment["TEST_LINGERS"] = ENDED
    main = project.snakemake(*STORM, *options)
    for cell in (KILLED, CANCELLED, LATE):
        until(lambda cell=cell: project.reached(cell, 10), f"{cell} trains", 600)
    project.cluster.run("scontrol", "update", f"JobId={project.job(LATE)}", "TimeLimit=1")
    project.cluster.run("scancel", project.job(CANCELLED))
    os.kill(project.pids(KILLED)[0], signal.SIGKILL)
    flag = project.folder / "outage"
    flag.touch()
    time.sleep(outage)
    # Five times in vain, and the plugin alone would give up: squeue and sacct each.
    until(lambda: len(flag.read_text().split()) > 2 * 5, "the states are asked for in vain")
    flag.unlink()
    until(lambda: (project.folder / "lingers").exists(), f"{ENDED} has ended", 600)
    project.cluster.run("scancel", project.job(ENDED))
    return main.succeed(900)


def test_killed_cancelled_late_and_hungry_jobs_end_with_the_same_students(stormy, local):
    """And while half of that happens, SLURM says nothing of its jobs for half a minute."""
    known = {job[0] for job in stormy.cluster.queue()}  # of earlier tests
    storm(stormy)
    check_equal(stormy, local)
    check_never_together(stormy)
    for cell in (KILLED, CANCELLED, LATE, HUNGRY):
        logs = stormy.logs(cell)
        assert len(logs) == 2, f"{cell}: {logs}"
        assert went_on(logs[1]), f"{cell}:\n" + "\n".join(logs)
    # SIGTERM comes before the end: nothing is lost. SIGKILL: what came after the last save.
    for cell in (CANCELLED, LATE):
        assert "stopped by SIGTERM" in stormy.logs(cell)[0]
        assert stormy.lost(cell) == 0
    for cell in (KILLED, HUNGRY):
        assert "stopped by" not in stormy.logs(cell)[0]
        assert 0 <= stormy.lost(cell) <= STEPS_BETWEEN_SAVES
    # More memory is asked for where an attempt was killed, and only there.
    queue = [line[1:] for line in stormy.cluster.queue("%i|%k|%m") if line[0] not in known]
    asked = {cell: sorted(mb for comment, mb in queue if comment_of(cell) in comment) for cell in (HUNGRY, LATE)}
    assert asked == {HUNGRY: [f"{LITTLE_MB}M", f"{2 * LITTLE_MB}M"], LATE: [f"{LITTLE_MB}M"] * 2}
    # Its job was cancelled after its training had ended: SLURM reports it failed, and it is not trained twice.
    assert "nothing to do" in stormy.logs(ENDED)[1]
    assert len(stormy.trained_by(ENDED)) == 1
    assert len(stormy.logs(UNDISTURBED)) == 1
    for cell in (ENDED, UNDISTURBED):
        assert stormy.lost(cell) == 0
    # Each attempt's log says which it is, where it ran, and stays.
    assert [log.splitlines()[0].split(",")[0].split()[1] for log in stormy.logs(KILLED)] == ["1", "2"]


@pytest.mark.long
def test_control_without_saved_states_the_storm_trains_twice(stormy, local):
    """What the test above finds comes from the checkpoints, and from the second copy of a result."""
    stormy.environment["TEST_FORGETS"] = "1"
    storm(stormy)
    for cell in (KILLED, CANCELLED, LATE, HUNGRY):
        assert not went_on(stormy.logs(cell)[1])
        assert stormy.lost(cell) > STEPS_BETWEEN_SAVES
    assert len(stormy.trained_by(ENDED)) == 2
    check_equal(stormy, local)


def test_the_main_process_may_be_a_job_and_the_students_an_array(project, local):
    made = project()
    known = {job[0] for job in made.cluster.queue()}
    command = shlex.join(["exec", *made.command("--slurm-array-jobs", "train")])
    wait = (
        "sbatch",
        "--wait",
        "--partition=cpu",
        "--mem=2000",
        f"--output={made.folder}/main.log",
        f"--wrap={command}",
    )
    made.start(*wait).wait(600)
    said = (made.folder / "main.log").read_text()
    check_equal(made, local)
    assert "You are running snakemake in a SLURM job context" in said
    tasks = [job for job in made.cluster.queue("%i|%T") if "_" in job[0] and job[0] not in known]
    assert [state for _, state in tasks] == ["COMPLETED"] * len(local.cells()), said


def test_doctor_on_the_cluster(project):
    said = project().start(str(BIN / "clipkd"), "doctor", "--slurm").succeed(400)
    assert "ok       status: sacct (accounting works)" in said
    for name in ("cpu", "gpu"):
        assert f"ok       partition {name}: takes jobs of 720 minutes" in said
        assert f"ok       node of {name}: " in said
    assert "preempted jobs by jobs in urgent are requeued and resume" in said


def test_what_the_cluster_does_not_have_is_refused_before_a_job_is_submitted(project):
    made = project()
    before = len(made.cluster.queue())
    partition = "train:slurm_partition='gpus' if wildcards.seed == '0' else 'cpu'"
    main = made.snakemake("--set-resources", partition, "train:mem_mb=100000 * attempt")
    assert main.wait(400) == 1
    assert "partition gpus: does not exist (known: cpu, gpu, urgent)" in main.said
    # Every attempt is looked at, not the first alone: `retries: 5`.
    assert "may ask for 600000 MB when it is retried, more than the largest node has (256000 MB)" in main.said
    assert len(made.cluster.queue()) == before


def test_after_the_main_process_was_killed_one_command_goes_on(project, local):
    """Twice: running jobs are saved and stopped; then they may finish, and what they made is taken over."""
    made = project()
    made.environment["TEST_SECONDS_A_STEP"] = "0.3"
    cells = local.cells()
    main = made.snakemake()
    until(lambda: all(made.reached(cell, 10) for cell in cells[:3]), "three cells train", 600)

    # While it lives there is no second one, also where Snakemake's own lock is passed over.
    second = made.snakemake("--nolock")
    assert second.wait(300) != 0
    assert f"has a main process already: process {main.process.pid} on " in second.said
    resumed = made.start(str(BIN / "clipkd"), "resume")
    assert resumed.wait(300) == 4
    assert f"process {main.process.pid} on " in resumed.said

    main.kill()
    resumed = made.start(str(BIN / "clipkd"), "resume")
    until(lambda: "resuming: snakemake" in resumed.said, "it goes on", 400)
    assert "is cancelled: RUNNING" in resumed.said
    until(lambda: any(len(made.trained_by(cell)) == 2 for cell in cells), "a cell trains again", 600)
    resumed.kill()
    resumed = made.start(str(BIN / "clipkd"), "resume", "--wait")
    until(lambda: "resuming: snakemake" in resumed.said, "it goes on", 600)
    assert "may finish: RUNNING" in resumed.said
    finished = {cell: made.trained_by(cell) for cell in made.cells()}
    assert finished
    resumed.succeed(900)

    check_equal(made, local)
    check_never_together(made)
    assert sum(map(made.lost, cells)) == 0
    for cell, processes in finished.items():
        assert made.trained_by(cell) == processes, "what was finished is not trained again"
    assert "Nothing to be done" in made.start(str(BIN / "clipkd"), "resume").succeed(400)


def test_a_job_that_sbatch_refuses_leaves_the_others_alone(project, local):
    made = project()
    # In words that the preflight does not read: it would refuse to begin.
    option = "train:slurm_extra='--licenses=none-such:1'"
    refused = f"{option} if wildcards.train_type == 'supervised' and wildcards.seed == '1' else ''"
    main = made.snakemake("--retries", "1", "--set-resources", refused)
    assert main.wait(900) == 1
    assert "Invalid license specification" in main.said, "sbatch's own words"
    assert set(made.cells()) == {KILLED, LATE, HUNGRY, EMBED_KD.format(0), EMBED_KD.format(1)}
    assert made.cluster.run("squeue", "--noheader").stdout == "", "nothing is left in the queue"

    # The config changes, and every job is refused: what is there does not pass for what was asked.
    config = made.folder / "config/test.yaml"
    config.write_text(GRID.replace(f"epochs: {EPOCHS}", f"epochs: {EPOCHS + 1}"))
    assert made.snakemake("--retries", "0", "--set-resources", option).wait(300) == 1
    planned = made.snakemake("-n").succeed()
    assert re.search(r"^train +6$", planned, re.MULTILINE), planned
    # It changes back: nothing is trained again.
    config.write_text(GRID)
    trained = {cell: made.trained_by(cell) for cell in local.cells()}
    made.snakemake().succeed(900)
    check_equal(made, local)
    assert [cell for cell in trained if made.trained_by(cell) != trained[cell]] == [CANCELLED]
