"""The real Snakemake on a copy of the workflow: what a dry run plans, what is refused, a small grid to its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from clipkd.core.environment import may_have_gpu
from tests import warm
from tests.conftest import held
from tests.grids import block, grid

ROOT = Path(__file__).parents[2]
Runs = Callable[..., subprocess.CompletedProcess[str]]
RECIPES = ("reference", "corrected")
CONTROLS = ("embed-KD-random", "embed-KD-permuted", "embed-KD-onehot")
EACH = ("--config", "training={stack: 1}")
"""A job for each student, so that a plan names them all."""
SHA = "0123456789abcdef0123456789abcdef01234567"
MINI = grid(block(seeds="[0, 1]"))


def copy_workflow(folder: Path) -> Path:
    """Copy what Snakemake reads; the package itself is the installed one, its copy is only digested."""
    for name in ("workflow", "config", "profiles", "clipkd"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.lock.json"))
    shutil.copy(ROOT / "Snakefile", folder)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which nothing is ever made."""
    return copy_workflow(tmp_path_factory.mktemp("project"))


def snakemake(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return started(project, "snakemake", "--cores", "1", *arguments)


def started(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project; what lies in its `bin` comes first, then a `clipkd` with torch imported."""
    folders = (project / "bin", warm.command().parent, Path(sys.executable).parent, os.environ["PATH"])
    path = os.pathsep.join(map(str, folders))
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )


def with_its_package(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake afresh: Python then imports the project's copy of the package."""
    return started(project, sys.executable, "-m", "snakemake", "--cores", "1", *arguments)


def plan(project: Path, *arguments: str, by: Runs = snakemake) -> tuple[dict[str, int], str]:
    """Return how many jobs of each rule a dry run plans, and all that it says."""
    answer = by(project, "--dry-run", *arguments)
    assert answer.returncode == 0, answer.stdout
    table = answer.stdout.partition("Job stats:")[2].partition("total")[0]
    return {rule: int(jobs) for rule, jobs in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}, answer.stdout


def planned_runs(said: str) -> set[str]:
    return set(re.findall(r"output: results/runs/(\S+)/\.done-", said))


def on_gpus(said: str) -> set[str]:
    """Return the rules whose jobs ask for a GPU, of a dry run."""
    return set(re.findall(r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    resources: .*\bgpu=[1-9]", said, re.MULTILINE))


def runs(datasets: tuple, students: tuple, teachers: tuple, types: tuple, seeds: int, recipes=RECIPES) -> Iterator[str]:
    for axes in product(recipes, datasets, students, teachers, types, (f"seed{seed}" for seed in range(seeds))):
        yield "/".join(axes)


def demo_runs() -> set[str]:
    digits, tiny, vit, corrected = ("digits",), ("tiny-32",), ("digits-vit-s",), ("corrected",)
    few = ("supervised-100-labels",)
    return {
        *runs(digits, (*tiny, "timm-test-resnet-32"), ("none",), few, 5, corrected),
        *runs(digits, tiny, ("cnn",), ("vanilla-100-labels", "vanilla-permuted-100-labels"), 5, corrected),
        *runs(digits, tiny, ("none",), ("supervised",), 2),
        *runs(digits, tiny, vit, ("vanilla", "teacher-KD", "embed-KD"), 2),
        *runs(digits, tiny, vit, ("embed-KD-permuted",), 2, corrected),
        *runs(digits, tiny, vit, ("vanilla-live", "teacher-KD-live"), 1, ("reference",)),
    }


def paper_runs(datasets: tuple[str, ...], teachers: tuple[str, ...]) -> set[str]:
    base, large = ("base-32",), ("vit-l16-in21k",)
    return {
        *runs(datasets, base, ("none",), ("supervised",), 3),
        *runs(datasets, base, teachers, ("vanilla", "teacher-KD", "embed-KD"), 3),
        *runs(datasets, base, large, CONTROLS, 3),
        *runs(("cifar100",), ("large-32", "base-64", "large-64"), large, ("embed-KD",), 3),
        *runs(("cifar10", "cifar100"), base, large, ("vanilla-live", "teacher-KD-live"), 1, ("reference",)),
    }


def expected(datasets: int, teachers: int, train: int, rule: str = "fetch") -> dict[str, int]:
    """Jobs of a grid in which every teacher meets every dataset: nothing but `train` counts students or seeds."""
    once = {"resolve": 1, "report": 1, "all": 1}
    made = {"download": datasets, rule: teachers, "extract": datasets * teachers}
    return {**made, **once, "train": train}


@pytest.mark.parametrize("entry", ["Snakefile", pytest.param("workflow/Snakefile", marks=pytest.mark.long)])
def test_the_demo_plans_exactly_its_jobs(entry: str, project: Path) -> None:
    jobs, said = plan(project, "--snakefile", entry, "--configfile", "config/demo.yaml", *EACH)
    assert planned_runs(said) == demo_runs()
    wanted = expected(datasets=1, teachers=1, train=len(demo_runs()), rule="train_teacher")
    # With few labels each seed has a teacher of its own, trained by a job of its own here (stack: 1).
    assert jobs == wanted | {"extract": wanted["extract"] + 5}
    assert jobs["train"] == 40
    assert on_gpus(said) == set(), "the demo computes on the CPU"
    assert "left out" not in said


@pytest.mark.long
def test_the_paper_plans_exactly_its_jobs(project: Path) -> None:
    jobs, said = plan(project, *EACH)
    wanted = paper_runs(("cifar10", "cifar100"), ("vit-l16-in21k", "vit-l32-in21k", "vit-b16-in21k"))
    assert planned_runs(said) == wanted
    assert jobs == expected(datasets=2, teachers=3, train=len(wanted))
    assert jobs["train"] == 178
    assert on_gpus(said) == {"extract", "train"}
    assert "left out: dataset 'imagenet' is never downloaded" in said
    assert "left out: teacher 'vit-b32-in21k' has no pinned commit" in said


@pytest.mark.slow
def test_the_whole_paper_plans_exactly_its_jobs(tmp_path: Path) -> None:
    project = copy_workflow(tmp_path)
    pinned = {"vit-b32-in21k": {"revision": SHA, "weights_sha256": "0" * 64}}
    (project / "config/teachers.lock.json").write_text(json.dumps(pinned))
    jobs, said = plan(project, *EACH, "sources={imagenet: /data/imagenet}")
    teachers = ("vit-l16-in21k", "vit-l32-in21k", "vit-b16-in21k", "vit-b32-in21k")
    wanted = paper_runs(("cifar10", "cifar100", "imagenet"), teachers)
    assert planned_runs(said) == wanted
    # ImageNet alone is shown in random crops: its students see thumbnails.
    assert jobs == expected(datasets=3, teachers=4, train=len(wanted)) | {"thumbnails": 1, "download": 2, "pack": 1}
    assert jobs["train"] == 310
    assert "left out" not in said


def test_on_a_cluster_a_teacher_is_trained_by_a_job_with_a_gpu_and_a_hub_teacher_is_fetched(project: Path) -> None:
    """A teacher that the workflow trains computes for minutes to hours; one of the hub needs the internet."""
    grid = MINI.replace("[digits-vit-s]", "[digits-vit-s, vit-b16-in21k, 'trained:resnet10t@32']")
    (project / "teachers.yaml").write_text(grid.replace("[supervised]", "[teacher-KD]").replace("cpu", "cuda"))
    jobs, said = plan(project, "--workflow-profile", "profiles/slurm", "--configfile", "teachers.yaml")
    assert (jobs["train_teacher"], jobs["fetch"]) == (2, 1)
    asked = re.findall(r"^rule train_teacher:\n(?:    .*\n)*?    resources: (.*)", said, re.MULTILINE)
    assert [("gpu=1" in one, "slurm_partition=gpu" in one, "device=cuda" in one) for one in asked] == [(True,) * 3] * 2
    assert re.search(r"^(?:local)?rule fetch:\n    output: data/teachers/vit-b16-in21k/", said, re.MULTILINE)


@pytest.mark.slow
def test_on_a_cluster_what_is_here_is_packed_by_a_job(tmp_path):
    project = copy_workflow(tmp_path)
    (project / "birds/train").mkdir(parents=True)
    (project / "mini.yaml").write_text(MINI.replace("[digits]", "[digits, birds]").replace("[0, 1]", "[0]"))
    arguments = (
        "--workflow-profile",
        "profiles/slurm",
        "--configfile",
        "mini.yaml",
        "--config",
        "sources={birds: birds}",
    )

    def memory(said: str) -> dict[str, str]:
        found = re.findall(r"log: (\S+)\n(?:    .*\n)*?    resources: .*?\bmem_mb=(\d+)", said)
        return {log: asked for log, asked in found if log.startswith("logs/runs/")}

    jobs, said = plan(project, *arguments)
    assert (jobs["download"], jobs["pack"]) == (1, 1)
    assert re.search(r"rule pack:\n    output: data/datasets/birds/", said)
    local = re.search(
        r"^localrules:\n((?:    \w+,\n)+)", (project / "workflow/rules/cluster.smk").read_text(), re.MULTILINE
    )
    assert local[1].split() == ["download,", "download_files,", "fetch,", "resolve,"]
    hub = f"sources={{birds: hub:farm/birds@{'a' * 40}}}"
    jobs, said = plan(project, *arguments[:-1], hub)
    assert (jobs["download"], jobs["download_files"], jobs["pack"]) == (1, 1, 1)
    assert re.search(r"rule pack:\n    input: data/datasets/.downloads/birds.json\n", said)
    assert {*memory(said).values()} == {"8000"}
    # An earlier job's log: only a retry looks at those of the attempts before it (tests/slurm).
    one = project / next(iter(memory(said)))
    one.parent.mkdir(parents=True)
    one.with_suffix(".attempt1.log").write_text("attempt 1 on n1, SLURM job 7\nepoch 1/3\n")
    assert {*memory(plan(project, *arguments)[1]).values()} == {"8000"}


@pytest.mark.parametrize(
    ("recipes", "cores", "threads"),
    [
        ("corrected", 8, 4),
        ("corrected, reference", 4, 2),
        pytest.param("corrected, reference", 8, 4, marks=pytest.mark.long),
        pytest.param("corrected, reference", 2, 1, marks=pytest.mark.long),
    ],
)
def test_trainings_leave_half_of_the_cores_to_other_jobs(recipes, cores, threads, project: Path) -> None:
    """Four students to a job; where it is the only one, there is nothing to leave them to."""
    grid = MINI.replace("[corrected]", f"[{recipes}]").replace("[0, 1]", "[0, 1, 2, 3]").replace("stack: 1", "stack: 4")
    (project / "four.yaml").write_text(grid)
    _, said = plan(project, "--configfile", "four.yaml", "--cores", str(cores))
    jobs = re.findall(r"^(?:local)?rule train:\n((?:    .*\n)*)", said, re.MULTILINE)
    found = [re.findall(r"threads: (\d+)", job) or ["1"] for job in jobs]
    assert found == [[str(threads)]] * len(recipes.split())


@pytest.mark.parametrize(
    ("teachers", "cores", "threads"),
    [("digits-vit-s", 8, 4), ("digits-vit-s, digits-vit-xs", 8, 2), ("digits-vit-s, digits-vit-xs", 2, 1)],
)
def test_teachers_share_half_of_the_cores(teachers, cores, threads, project: Path) -> None:
    """Everything else waits for them, and on a CPU one of them may be the only job."""
    grid = MINI.replace("[digits-vit-s]", f"[{teachers}]").replace("[supervised]", "[vanilla]")
    (project / "teachers.yaml").write_text(grid)
    _, said = plan(project, "--configfile", "teachers.yaml", "--cores", str(cores), "--printshellcmds")
    found = re.findall(r"clipkd (?:fetch|extract|probe) .*?--device cpu --threads (\d+)", said)
    assert len(found) >= 2 * len(teachers.split())
    assert set(found) == {str(threads)}


def test_where_auto_finds_no_gpu_each_student_has_a_core(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = MINI.replace("[0, 1]", "[0, 1, 2, 3]").replace("stack: 1", "stack: 4").replace("device: cpu", "device: auto")
    (project / "auto.yaml").write_text(grid)
    for devices, processes in (("", 3), ("-1", 3), (None, 1 if may_have_gpu() else 3)):
        if devices is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        _, said = plan(project, "--configfile", "auto.yaml", "--cores", "3", "--printshellcmds")
        assert f" --processes {processes} " in said


def test_a_scratch_folder_may_be_named_by_a_variable(project: Path) -> None:
    (project / "scratch.yaml").write_text(MINI.replace("training: {", "training: {scratch: '${TMPDIR}', "))
    assert plan(project, "--configfile", "scratch.yaml")[0]["train"] == 2


def test_a_grid_of_which_nothing_is_left_is_refused(project: Path) -> None:
    (project / "none.yaml").write_text(MINI.replace("[digits]", "[imagenet]"))
    answer = snakemake(project, "--dry-run", "--configfile", "none.yaml")
    assert answer.returncode != 0
    assert re.search(r"nothing is left of the grid:\n  .*imagenet", answer.stdout), answer.stdout
    assert "Traceback" not in answer.stdout


def test_a_bad_config_is_refused_before_any_work(project: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("training:\n  epochs: 3\n  epoch: 4\n")
    answer = snakemake(project, "--configfile", str(tmp_path / "bad.yaml"))
    assert answer.returncode != 0
    assert re.search(r"bad\.yaml:3.*'epoch'; did you mean 'epochs'", answer.stdout), answer.stdout
    assert "Traceback" not in answer.stdout
    assert not (project / "data").exists()
    assert not (project / "results").exists()


@pytest.fixture
def finished(finished_grid: Path) -> Iterator[Path]:
    """The grid of two students, run to its end; whoever changes a file of it, puts it back."""
    with held(finished_grid):
        yield finished_grid


def test_a_small_grid_runs_to_its_tables_and_figures(finished: Path) -> None:
    folders = {path.parent.relative_to(finished / "results/runs").as_posix() for path in finished.rglob("metrics.json")}
    assert folders == set(runs(("digits",), ("tiny-32",), ("none",), ("supervised",), 2, ("corrected",)))
    table = (finished / "results/tables/accuracy-corrected-last-top1.md").read_text()
    reached = [json.loads(path.read_text())["last"]["test"]["top1"] for path in finished.rglob("metrics.json")]
    assert f"{50 * sum(reached):.2f} ±" in table
    assert "±" in table
    assert json.loads((finished / "results/config.json").read_text())["training"]["epochs"] == 1
    assert (finished / "results/figures/accuracy-digits.png").stat().st_size > 10_000
    assert f"{50 * sum(reached):.2f} ±" in (finished / "results/report.html").read_text()
    assert not list(finished.rglob(".resume"))


def test_a_second_run_has_nothing_to_do(finished: Path) -> None:
    # What DVC brings has a new time: times of data must not decide.
    (finished / "data/datasets/digits/manifest.json").touch()
    answer = snakemake(finished, "--configfile", "mini.yaml")
    assert answer.returncode == 0
    assert "Nothing to be done" in answer.stdout, answer.stdout


def test_a_run_that_vanished_is_planned_again(finished: Path, tmp_path: Path) -> None:
    """Though the tables made from it are there."""
    folder = next(finished.rglob("metrics.json")).parent
    try:
        folder.rename(tmp_path / "aside")
        jobs, said = plan(finished, "--configfile", "mini.yaml")
    finally:
        (tmp_path / "aside").rename(folder)
    assert jobs == {"train": 1, "report": 1, "all": 1}, said


def test_a_dataset_that_vanished_is_planned_again_for_figures(finished: Path, tmp_path: Path) -> None:
    """They show its classes. Complete students are planned too, and then left as they are."""
    folder = finished / "data/datasets/digits"
    try:
        folder.rename(tmp_path / "aside")
        jobs, said = plan(finished, "--configfile", "mini.yaml", "--forcerun", "report")
    finally:
        (tmp_path / "aside").rename(folder)
    assert jobs["download"] == jobs["report"] == 1, said


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished grid, to be changed freely."""
    return shutil.copytree(finished, tmp_path / "copy", symlinks=True)


def test_a_report_that_fails_leaves_the_one_before(copied: Path) -> None:
    history = next(copied.rglob("history.csv"))
    history.write_text(history.read_text() + "1,2\n")
    results = copied / "results"
    kept = [path for path in results.glob("*") if path.is_file() and not path.name.startswith(".")]
    kept += [path for name in ("tables", "figures") for path in (results / name).iterdir()]
    before = {path: path.read_bytes() for path in kept}
    assert {results / "report.html", results / "summary.json"} < before.keys()
    answer = snakemake(copied, "--configfile", "mini.yaml", "--forcerun", "report")
    assert answer.returncode != 0, answer.stdout
    assert {path: path.read_bytes() for path in kept if path.exists()} == before
    assert plan(copied, "--configfile", "mini.yaml")[0] == {"report": 1, "all": 1}, "and is not taken for done"


@pytest.mark.slow
def test_what_snakemake_leaves_out_is_said_and_made_by_the_same_command(copied: Path) -> None:
    """It looks at nothing behind a job whose command has changed though its output is there."""
    rules = copied / "workflow/rules/data.smk"
    rules.write_text(rules.read_text().replace("exec clipkd download", "exec  clipkd download"))
    (copied / "mini.yaml").write_text(MINI.replace("[0, 1]", "[0, 1, 2]"))
    answer = snakemake(copied, "--configfile", "mini.yaml")
    assert answer.returncode != 0
    left = "2 results are still to be made, as results/runs/corrected/digits/tiny-32/none/supervised/seed2:"
    assert left in answer.stdout
    assert not next(copied.rglob("seed2/metrics.json"), None)
    answer = snakemake(copied, "--configfile", "mini.yaml")
    assert answer.returncode == 0, answer.stdout
    assert next(copied.rglob("seed2/metrics.json"), None)


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        (["training={epochs: 2}"], {"train": 2}),
        # How fast, not what: nothing that costs is made again.
        (["training={device: auto}", "embeddings={batch_size: 8}"], {}),
    ],
)
def test_a_change_plans_what_it_changes(changes: list[str], trained: dict[str, int], finished: Path) -> None:
    jobs, said = plan(finished, "--configfile", "mini.yaml", "--config", *changes)
    assert jobs == trained | {"resolve": 1, "report": 1, "all": 1}, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "planned"),
    [
        ("tables/table.py", {"report": 1, "all": 1}),
        pytest.param("report/templates/page.html", {"report": 1, "all": 1}, marks=pytest.mark.long),
        ("core/lock.py", {}),
    ],
)
def test_an_edit_plans_what_is_made_by_that_code(module: str, planned: dict[str, int], finished: Path) -> None:
    path = finished / "clipkd" / module
    before = path.read_text()
    try:
        path.write_text(before + "\n")
        jobs, said = plan(finished, "--configfile", "mini.yaml", by=with_its_package)
    finally:
        path.write_text(before)
    assert jobs == planned, said
