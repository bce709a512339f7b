"""Which trainings are planned: a run's only declared output is a stamp, which names its settings."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from clipkd.core.artifacts import entry_of, read_manifest, write_manifest
from clipkd.runs.folder import RunFolder
from clipkd.spec.grid import expand
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config
from clipkd.workflow import stamps
from tests import warm
from tests.conftest import held
from tests.synthetic import Study, demo, seal, write_study
from tests.workflow.test_workflow import MINI, copy_workflow, plan, snakemake, started

PLACE = "results/runs/corrected/digits/tiny-32/none/supervised"
CONFIG = ("--configfile", "mini.yaml")
NOTHING_TO_DO = "holds the complete result of this run: nothing to do"
FAILS = '#!/bin/sh\n[ "$1" = train ] && exit 1\nexec {clipkd} "$@"\n'
KILLS_ALL = '#!/bin/sh\n{clipkd} "$@" || exit\n[ "$1" = train ] && kill -KILL 0\ntrue\n'
FAILS_ONCE = """\
#!/bin/sh
{clipkd} "$@" || exit
[ "$1" != train ] || [ -e failed ] || {{ touch failed; exit 1; }}
"""


def jobs_of(config: Config, size: int = 1) -> list[stamps.TrainJob]:
    return list(stamps.jobs(expand(config)[0], config, Layout.of(config), size).values())


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Runs that were made before there were stamps."""
    monkeypatch.chdir(tmp_path)
    return write_study(demo(), Path())


def stamped(study: Study, size: int = 1) -> stamps.TrainJob:
    """Return the first job, after it found its runs complete."""
    job = jobs_of(study.config, size)[0]
    job.settle()
    assert job.stamp.exists()
    return job


@pytest.mark.parametrize(
    ("number", "has_teacher"),
    [("spec.identities.PROTOCOL", False), ("plugins.datasets.PROTOCOL", False), ("spec.views.PROTOCOL", True)],
)
def test_another_protocol_is_another_training(number, has_teacher, study, monkeypatch):
    """The stamp is all that Snakemake knows of a run's settings: it must hold each number that changes results."""
    before = {job.cells[0]: job.stamp for job in jobs_of(study.config)}
    monkeypatch.setattr(f"clipkd.{number}", 999)
    changed = {job.cells[0] for job in jobs_of(study.config) if before[job.cells[0]] != job.stamp}
    assert changed == {cell for cell in before if cell.train_type != "supervised" or not has_teacher}


def edit(job: stamps.TrainJob) -> None:
    path = job.folders[-1] / "metrics.json"
    path.write_text(path.read_text().replace('"top1": 0.', '"top1": 0.9', 1))


def retrain_with_other_settings(job: stamps.TrainJob) -> None:
    """As by hand: the run is whole, but not this one."""
    folder = job.folders[-1]
    text = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(text.replace('"weight_decay": 0.1', '"weight_decay": 0.2'))
    assert (folder / "metrics.json").read_text() != text
    seal(folder)


LOST: dict[str, Callable[[stamps.TrainJob], None]] = {
    "missing": lambda job: (job.folders[-1] / "metrics.json").unlink(),
    "edited": edit,
    "empty": lambda job: (job.folders[-1] / "metrics.json").write_text(""),
    "of other settings": retrain_with_other_settings,
    "gone": lambda job: shutil.rmtree(job.folders[-1]),
}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("lost", LOST)
def test_a_stamp_goes_with_the_result_it_stands_for(lost: str, size: int, study: Study) -> None:
    job = stamped(study, size)
    LOST[lost](job)
    job.settle()
    assert not job.stamp.exists()


def test_runs_are_trained_again_whose_stamps_delete_all_output_has_deleted(study: Study) -> None:
    """Only those: a dry run deletes none, and targets limit what is deleted."""
    found = jobs_of(study.config)
    stamps.settle(found)
    for deleted in ([], found[:2]):
        stamps.expect_deletion(found)
        for job in deleted:
            job.stamp.unlink()
        stamps.settle(found)
        assert [job for job in found if not job.stamp.exists()] == deleted
    assert not any((folder / "metrics.json").exists() for job in found[:2] for folder in job.folders)
    stamps.settle(found)
    assert all(job.stamp.exists() for job in found[2:])


def test_every_old_run_gets_its_stamp_and_no_other(study: Study) -> None:
    """Taken over with the time of its result, so that tables do not look older than it."""
    found = jobs_of(study.config)
    stamps.settle(found)
    assert all(job.stamp.exists() for job in found)
    assert len({job.stamp.name for job in found}) == len(found)
    result = study.results / "runs" / found[0].cells[0].folder / "metrics.json"
    assert found[0].stamp.stat().st_mtime_ns == result.stat().st_mtime_ns
    # In lots, the same runs; a lot with one run too few has no stamp.
    lots = jobs_of(study.config, 2)
    (lots[-1].folders[-1] / "metrics.json").unlink()
    stamps.settle(lots)
    assert [job.stamp.exists() for job in lots] == [True] * (len(lots) - 1) + [False]


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"learning_rate": 0.5}, False),
        ({"epochs": 7}, False),
        ({"precision": "bf16"}, False),
        ({"precision": "auto"}, True),  # what it stands for is only known where the student was trained
        ({"device": "cuda"}, True),
    ],
)
def test_settings_decide_which_stamp_it_is(changes: dict, is_same: bool, study: Study) -> None:
    other = demo()
    other["training"] |= changes
    for block in other["grid"]:
        block.pop("epochs", None)
    before = demo()
    for block in before["grid"]:
        block.pop("epochs", None)
    write_study(before, Path())
    job = jobs_of(Config.model_validate(other))[0]
    job.settle()
    assert job.stamp.exists() == is_same


@pytest.mark.parametrize("is_stamped", [True, False])
def test_a_run_on_other_images_than_are_packed_now_is_trained_again(is_stamped: bool, study: Study, capsys) -> None:
    """Whoever packed them; where none are packed, as after a pull of the results, the run stays."""
    layout, found = Layout.of(study.config), jobs_of(study.config)
    if is_stamped:
        stamps.settle(found, layout)
    packed = layout.data / "datasets/digits"
    manifest = read_manifest(packed)
    files = {path.name: entry_of(path) for path in packed.iterdir() if path.name != "manifest.json"}
    facts = manifest["facts"] | {"content": "f" * 64}
    if is_stamped:  # the options of another config's source: its name is the same, its images are not the run's
        write_manifest(packed, "dataset", manifest["identity"] | {"size": 48}, facts, files)
        stamps.settle(found, layout)
        assert all(job.stamp.exists() for job in found)
    write_manifest(packed, "dataset", manifest["identity"], facts, files)
    stamps.settle(found, layout)
    assert not any(job.stamp.exists() for job in found)
    assert ("trained on other images than those of 'digits'" in capsys.readouterr().err) == is_stamped
    (packed / "manifest.json").unlink()
    stamps.settle(found, layout)
    assert all(job.stamp.exists() for job in found)


def test_a_stamp_of_an_older_version_stays_where_the_run_saw_what_is_packed(study: Study) -> None:
    job, layout = stamped(study), Layout.of(study.config)
    before = job.stamp.read_text()
    job.stamp.write_text(before.partition("dataset ")[0])
    stamps.settle([job], layout)
    assert job.stamp.read_text() == before


def test_a_folder_that_cannot_be_written_stops_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(stamps, "write_text", refuse)
    stamps.settle(jobs_of(study.config))


def test_writing_a_stamp_removes_those_of_other_settings(study: Study) -> None:
    old = stamped(study)
    new = old.folders[0] / f"{stamps.PREFIX}{'0' * 16}"
    stamps.write(new, old.folders)
    assert (new.exists(), old.stamp.exists()) == (True, False)


# --- the real Snakemake


@pytest.fixture
def project(finished_grid: Path, tmp_path: Path) -> Path:
    """Two students, trained by the workflow."""
    with held(finished_grid):
        return Path(shutil.copytree(finished_grid, tmp_path / "project", symlinks=True))


def runs(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    answer = snakemake(project, *CONFIG, *arguments, "--", "runs")
    assert "Traceback" not in answer.stdout
    return answer


def trained(project: Path) -> dict[str, str]:
    """Return each complete run's cost, by seed's folder: its seconds differ from one training to the next."""
    return {
        path.parent.name: (path.parent / "cost.json").read_text() for path in (project / PLACE).glob("*/metrics.json")
    }


def planned(project: Path, *arguments: str) -> int:
    return plan(project, *CONFIG, *arguments, "--", "runs")[0].get("train", 0)


def log_of(project: Path, seed: int = 0) -> str:
    """Return the newest log of a seed."""
    logs = (project / "logs" / PLACE.removeprefix("results/")).glob(f"seed{seed}-*.attempt*.log")
    return max(logs, key=lambda path: path.stat().st_mtime_ns).read_text()


def put_command(project: Path, text: str) -> Path:
    command = project / "bin/clipkd"
    command.parent.mkdir(exist_ok=True)
    command.write_text(text.format(clipkd=warm.command()))
    command.chmod(0o755)
    return command


@pytest.mark.slow
def test_changed_settings_are_planned_until_they_are_trained(project: Path) -> None:
    first = trained(project)
    command = put_command(project, FAILS)
    (project / "mini.yaml").write_text(MINI.replace("epochs: 1", "epochs: 2"))
    assert runs(project).returncode != 0
    assert planned(project) == 2, "a job that failed leaves nothing that passes for what was asked"
    assert trained(project) == first, "the old results are there"
    (project / "mini.yaml").write_text(MINI)
    assert planned(project) == 0, "and they are still what the old config asks for"
    # One is replaced; now the old settings ask for one training.
    command.unlink()
    (project / "mini.yaml").write_text(MINI.replace("epochs: 1", "epochs: 2").replace("[0, 1]", "[0]"))
    answer = runs(project)
    assert answer.returncode == 0, answer.stdout
    assert "holds a run with other settings, which is replaced when this one is complete" in log_of(project)
    assert planned(project) == 0
    (project / "mini.yaml").write_text(MINI)
    assert planned(project) == 1
    assert trained(project)["seed1"] == first["seed1"]


@pytest.mark.slow
def test_where_everything_was_killed_after_a_training_it_is_found_complete(project: Path) -> None:
    shutil.rmtree(project / PLACE)
    command = put_command(project, KILLS_ALL)
    assert runs(project).returncode == -signal.SIGKILL
    (done,) = before = trained(project)
    command.unlink()
    assert snakemake(project, *CONFIG, "--unlock").returncode == 0
    assert planned(project) == 1, "the stamp is there; only the other student is missing"
    # Also where Snakemake is to delete what it did not see end.
    answer = runs(project, "--workflow-profile", "none", "--rerun-incomplete")
    assert answer.returncode == 0, answer.stdout
    assert NOTHING_TO_DO in log_of(project, int(done[-1]))
    assert trained(project).keys() == {"seed0", "seed1"}
    assert trained(project)[done] == before[done]


def test_a_job_that_fails_after_its_training_has_ended_does_not_train_again(project: Path) -> None:
    """As where a cluster cancels it in that second: Snakemake deletes its output, which is only the stamp."""
    shutil.rmtree(project / PLACE / "seed0")
    put_command(project, FAILS_ONCE)
    answer = runs(project, "--retries", "1")
    assert answer.returncode == 0, answer.stdout
    assert log_of(project).startswith("attempt 3 "), "the first is that of the fixture"
    assert NOTHING_TO_DO in log_of(project)


@pytest.mark.slow
def test_what_is_forced_is_trained_anew(project: Path) -> None:
    (project / "mini.yaml").write_text(MINI.replace("[0, 1]", "[0]"))
    first = trained(project)
    assert runs(project, "--forcerun", "train").returncode == 0
    second = trained(project)
    assert second["seed0"] != first["seed0"]
    # Who resumes that command has not forced it again.
    resumed = started(project, "clipkd", "resume")
    assert "--forcerun train" in resumed.stdout
    assert resumed.returncode == 0, resumed.stdout
    assert NOTHING_TO_DO in log_of(project)
    assert trained(project) == second


def test_a_damaged_result_is_made_again(project: Path) -> None:
    first = trained(project)
    path = project / PLACE / "seed0/metrics.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"top1": 0.', b'"top1": 0.9', 1))
    answer = runs(project)
    assert answer.returncode == 0, answer.stdout
    assert "metrics.json is missing, damaged or of other settings; it will be trained again" in answer.stdout
    assert path.read_bytes() == whole
    assert trained(project)["seed1"] == first["seed1"]


def test_old_results_are_taken_over(project: Path) -> None:
    """A version that wrote no stamps made them, and Snakemake's records are lost."""
    for stamp in (project / PLACE).glob(f"*/{stamps.PREFIX}*"):
        stamp.unlink()
    shutil.rmtree(project / ".snakemake")
    assert planned(project) == 0
    (project / "mini.yaml").write_text(MINI.replace("epochs: 1", "epochs: 2"))
    assert planned(project) == 2


@pytest.mark.slow
def test_a_job_trains_what_is_missing_of_its_seeds(project: Path) -> None:
    """`training.stack`; one student alone was trained before."""

    first = trained(project)
    assert first.keys() == {"seed0", "seed1"}
    (project / "mini.yaml").write_text(stack([0, 1, 2, 3]))
    # Two more, of which one can't be trained now: the other is, and stays although the job has failed.
    (project / PLACE / "seed2").mkdir()
    with RunFolder(project / PLACE / "seed2").held():
        answer = runs(project)
    assert answer.returncode != 0
    assert "being written by process" in answer.stdout
    second = trained(project)
    assert second.keys() == {"seed0", "seed1", "seed3"}
    # Again: what is there stays as it is.
    answer = runs(project)
    assert answer.returncode == 0, answer.stdout
    third = trained(project)
    assert third.keys() == {f"seed{seed}" for seed in range(4)}
    assert first.items() <= second.items() <= third.items()
    assert f"seed3 {NOTHING_TO_DO}" in log_of(project, seed=2)
    # In other lots, and one by one, nothing is left to do.
    for size in (1, 3):
        (project / "mini.yaml").write_text(stack([0, 1, 2, 3], size))
        assert planned(project) == 0


def stack(seeds: list[int], size: int = 2) -> str:
    return MINI.replace("seeds: [0, 1]", f"seeds: {seeds}").replace("stack: 1", f"stack: {size}")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "lots"), [(1, ["0", "1", "2", "5"]), (3, ["0 1 2", "5"])])
def test_jobs_of_a_grid(size: int, lots: list[str], tmp_path: Path) -> None:
    """Two blocks, one with a seed of its own: no seed is trained by two jobs."""
    project = copy_workflow(tmp_path)
    block = stack([1]).partition("training:")[0].removeprefix("grid:\n").replace("corrected", "reference")
    (project / "mini.yaml").write_text(stack([0, 1, 2, 5], size).replace("training:", block + "training:"))
    jobs, said = plan(project, *CONFIG, "--printshellcmds")
    assert jobs["train"] == len(lots) + 1
    trained = re.findall(r"clipkd train .*--recipe (\w+) .*--seed (\d+(?: \d+)*) ", said)
    assert sorted(trained) == sorted([*(("corrected", lot) for lot in lots), ("reference", "1")])


def test_a_scratch_folder_trains_nothing_again_and_is_what_jobs_read(project: Path) -> None:
    scratch = ("--config", "training={scratch: '$PWD/{node}'}")
    assert planned(project, *scratch) == 0
    before = trained(project)
    shutil.rmtree(project / PLACE / "seed1")
    assert runs(project, *scratch).returncode == 0
    assert trained(project)["seed0"] == before["seed0"]
    (copy,) = (project / "{node}").glob("clipkd-*/dataset-*")
    assert f"copied to {copy}" in log_of(project, 1)


def test_tables_are_of_the_configs_grid_where_snakemake_has_forgotten_everything(project: Path) -> None:
    """Without .snakemake no parameter counts as changed. The control: with the same grid there is nothing to do."""
    shutil.rmtree(project / ".snakemake")
    said = snakemake(project, *CONFIG, "--dry-run")
    assert "Nothing to be done" in said.stdout
    mini = project / "mini.yaml"
    mini.write_text(mini.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    said = snakemake(project, *CONFIG, "--until", "report")
    assert said.returncode == 0, said.stdout
    assert json.loads((project / "results/config.json").read_text())["grid"][0]["seeds"] == [0]
    assert "(1)" in (project / "results/tables/accuracy-corrected-last-top1.md").read_text()
    assert len(list((project / "results").glob(".config-*"))) == 1
