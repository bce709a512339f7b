"""`training.stack`: one job for several seeds, by the real Snakemake; what is complete is never trained again."""

from __future__ import annotations

import re
import shutil
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from clipkd.runs.folder import RunFolder
from clipkd.workflow import recovery as adoption
from tests.workflow.test_workflow import MINI, copy_workflow, plan, snakemake, started

PLACE = "results/runs/corrected/digits/tiny-32/none/supervised"


def config(seeds: list[int], stack: int = 2) -> str:
    return MINI.replace("seeds: [0, 1]", f"seeds: {seeds}").replace("device: cpu", f"device: cpu, stack: {stack}")


def trained(project: Path) -> dict[str, str]:
    """Return each complete run's cost, by seed's folder: its seconds differ from one training to the next."""
    return {
        path.parent.name: (path.parent / "cost.json").read_text() for path in (project / PLACE).glob("*/metrics.json")
    }


def jobs_of(said: str) -> list[str]:
    return sorted(set(re.findall(r"train_seeds_\d+(?:_\d+)*", said)))


def test_a_job_trains_what_is_missing_of_its_seeds(tmp_path: Path) -> None:
    project = copy_workflow(tmp_path)

    def run(seeds: list[int]):
        (project / "mini.yaml").write_text(config(seeds))
        targets = [f"{PLACE}/seed{seed}/metrics.json" for seed in seeds]
        answer = snakemake(project, "--configfile", "mini.yaml", "--", *targets)
        assert "Traceback" not in answer.stdout
        return answer

    answer = run([0, 1])
    assert answer.returncode == 0, answer.stdout
    first = trained(project)
    assert first.keys() == {"seed0", "seed1"}
    assert jobs_of(answer.stdout) == ["train_seeds_0_1"]

    # Two more, of which one can't be trained now: the other is, and stays although the job has failed.
    with RunFolder(project / PLACE / "seed2").held():
        answer = run([0, 1, 2, 3])
    assert answer.returncode != 0
    assert "being written by process" in answer.stdout
    assert jobs_of(answer.stdout) == ["train_seeds_2_3"]
    second = trained(project)
    assert second.keys() == {"seed0", "seed1", "seed3"}

    # Again, one seed more, and in other lots: what is there stays as it is.
    answer = run([0, 1, 2, 3, 4])
    assert answer.returncode == 0, answer.stdout
    third = trained(project)
    assert third.keys() == {f"seed{seed}" for seed in range(5)}
    assert first.items() <= second.items() <= third.items()
    assert jobs_of(answer.stdout) == ["train_seeds_2_3", "train_seeds_4"]
    log = (project / "logs" / PLACE.removeprefix("results/") / "seeds-2-3.log").read_text()
    assert "seed3 holds the complete result of this run: nothing to do" in log


FAILS_ONCE = """\
#!/bin/sh
{clipkd} "$@" || exit
[ "$1" != train ] || [ -e failed ] || {{ touch failed; exit 1; }}
"""


def test_a_job_that_fails_after_its_training_has_ended_does_not_train_again(tmp_path: Path) -> None:
    """As where a cluster cancels it in that second. What is forced is trained again."""
    project = copy_workflow(tmp_path)
    (project / "mini.yaml").write_text(MINI)
    (project / "bin").mkdir()
    (project / "bin/clipkd").write_text(FAILS_ONCE.format(clipkd=Path(sys.executable).parent / "clipkd"))
    (project / "bin/clipkd").chmod(0o755)
    log = project / "logs" / PLACE.removeprefix("results/") / "seed0.log"

    def run(*arguments: str) -> str:
        answer = snakemake(project, "--configfile", "mini.yaml", *arguments, "--", f"{PLACE}/seed0/metrics.json")
        assert answer.returncode == 0, answer.stdout
        return log.read_text()

    said = run("--retries", "1")
    assert said.startswith("attempt 2 ")
    assert "holds the complete result of this run: nothing to do" in said
    first = trained(project)
    assert first.keys() == {"seed0"}
    assert "epoch 1/1" in run("--forcerun", "train")
    second = trained(project)
    assert second != first
    # Who goes on with that command has not forced it again.
    resumed = started(project, "clipkd", "resume")
    assert "--forcerun train" in resumed.stdout
    assert resumed.returncode == 0, resumed.stdout
    assert "nothing to do" in log.read_text()
    # Ctrl-C came before Snakemake had noted its end.
    mark = project / adoption.MARKS / urlsafe_b64encode(f"{PLACE}/seed0/metrics.json".encode()).decode()
    mark.touch()
    assert "nothing to do" in run()
    assert not mark.exists()
    assert trained(project) == second
    # Snakemake has no record of how it was made, and the config asks for something else: refused before any work.
    shutil.rmtree(project / ".snakemake/metadata")
    (project / "mini.yaml").write_text(MINI.replace("epochs: 1", "epochs: 2"))
    answer = snakemake(project, "--configfile", "mini.yaml", "--", "tables")
    assert answer.returncode == 1
    assert f"  {PLACE}/seed0: training.epochs: found 1, wanted 2\n" in answer.stdout
    assert trained(project) == second


@pytest.mark.parametrize(("stack", "jobs"), [(1, {"train": 4}), (3, {"train_seeds_0_1_2": 1, "train_seeds_5": 1})])
def test_jobs_of_a_grid(stack: int, jobs: dict[str, int], tmp_path: Path) -> None:
    project = copy_workflow(tmp_path)
    (project / "mini.yaml").write_text(config([0, 1, 2, 5], stack))
    planned, said = plan(project, "--configfile", "mini.yaml")
    assert planned == jobs | {"download": 1, "resolve": 1, "tables": 1, "figures": 1, "report": 1, "all": 1}, said


def test_students_of_other_seeds_do_not_share_a_rule(tmp_path: Path) -> None:
    """Two blocks, one with a seed of its own that the other's lots also hold: no output has two rules."""
    project = copy_workflow(tmp_path)
    block = config([1], 2).partition("training:")[0].removeprefix("grid:\n")
    (project / "mini.yaml").write_text(
        config([0, 1]).replace("training:", block.replace("corrected", "reference") + "training:")
    )
    planned, said = plan(project, "--configfile", "mini.yaml")
    assert (planned["train_seeds_0_1"], planned["train_seeds_1"]) == (1, 1), said
