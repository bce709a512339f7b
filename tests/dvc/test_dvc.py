"""One person extracts, tracks and pushes; another pulls: only students are left to train, and the tables are equal.

Real git, dvc and Snakemake, on two small teachers.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.conftest import save_vit
from tests.grids import block, grid
from tests.workflow.test_workflow import ROOT, copy_workflow, plan

pytestmark = pytest.mark.slow

EMBEDDINGS = block("shared", teachers="[toy-a, toy-b]", train_types="[embed-KD]")
SCORES = block("scores", teachers="[toy-a]", train_types="[vanilla]")
WITHOUT_SCORES, GRID = (
    grid(*blocks) + "prototypes: {per_class: 3}\n" for blocks in ([EMBEDDINGS], [EMBEDDINGS, SCORES])
)
CONFIG = ("--configfile", "config/shared.yaml")
MEASURED = ("cost", "resources", "runs")
"""Tables of seconds, which no two runs share."""
STUDENTS = {"resolve": 1, "train": 3}
RUNS = ("--until", "train", "resolve")
"""All that is made before tables and figures are."""


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which git and dvc know nobody's settings."""
    path = os.pathsep.join(map(str, (warm.command().parent, Path(sys.executable).parent, os.environ["PATH"])))
    who = {f"GIT_{role}_{key}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    folders = {
        name: str(home / name.lower()) for name in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "XDG_CACHE_HOME")
    }
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1"}
    return os.environ | {"PATH": path} | who | folders | quiet


class Clone:
    """A checkout of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder, environment(folder.parent / "home")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        answer = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert answer.returncode == 0 or not check, f"{' '.join(command)}\n{answer.stdout}"
        return answer

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("snakemake", "--cores", "2", *arguments, *CONFIG, check=check)

    def plan(self) -> dict[str, int]:
        """Return the jobs of a dry run, rule -> number; the report stands after all that is of DVC."""
        return plan(self.folder, *CONFIG, *RUNS)[0]


def clone(source: Clone, folder: Path) -> Clone:
    subprocess.run(["git", "clone", "--quiet", str(source.folder), str(folder)], check=True, env=source.environment)
    return Clone(folder)


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Clone:
    """Person A: ran the whole grid, tracked, pushed."""
    root = tmp_path_factory.mktemp("dvc")
    folder = copy_workflow(root / "a")
    for name in (".gitignore", ".dvcignore", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    (folder / "config/shared.yaml").write_text(GRID)
    save_vit(folder / "toy-a")
    save_vit(folder / "toy-b", num_hidden_layers=1)
    a = Clone(folder)
    a.run("git", "init", "--quiet")
    a.run("dvc", "remote", "add", "--default", "shared", str(root / "remote"))
    a.run("git", "add", ".")
    a.run("git", "commit", "--quiet", "-m", "project")
    a.snakemake(*RUNS)
    a.snakemake("track")
    a.run("dvc", "push")
    a.run("git", "add", ".")
    a.run("git", "commit", "--quiet", "-m", "pointers")
    return a


@pytest.fixture
def second(first, tmp_path) -> Clone:
    """Person B: a fresh clone, nothing pulled."""
    return clone(first, tmp_path / "b")


def tables(of: Clone) -> dict[str, bytes]:
    of.run("clipkd", "tables")
    folder = of.folder / "results/tables"
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(MEASURED)}


def test_only_pointers_are_in_git(first):
    tracked = [name for name in first.run("git", "ls-files", "data").stdout.split() if not name.endswith("README.md")]
    assert tracked
    assert [name for name in tracked if not name.endswith(".dvc")] == []
    assert first.run("git", "status", "--short").stdout == ""
    # The dataset, two teachers, of each a store and prototypes, and of one another store and a head.
    assert len(tracked) == 1 + 2 + 2 * 2 + 2


def test_after_tracking_nothing_is_planned(first):
    assert first.plan() == {}


@pytest.mark.long
def test_tracking_again_changes_nothing(first):
    first.snakemake("track")
    assert first.run("git", "status", "--short").stdout == ""


def test_a_clone_without_pull_makes_everything(second):
    jobs = second.plan()
    assert (jobs["download"], jobs["fetch"], jobs["extract"]) == (1, 2, 2)


def test_after_a_pull_only_students_are_trained_and_the_tables_are_equal(first, second):
    second.run("dvc", "pull")
    assert second.plan() == STUDENTS
    second.snakemake(*RUNS)
    found = tables(second)
    assert len(found) > 4
    assert found == tables(first)
    assert second.plan() == {}
    second.run("dvc", "pull")
    assert second.plan() == {}, "pulling again, later, changes nothing"


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(["embeddings", "datasets", "teachers"], marks=pytest.mark.long),
        pytest.param(["datasets", "embeddings"], marks=pytest.mark.long),
        ["embeddings"],
    ],
)
def test_the_order_of_pulls_does_not_matter(order, second):
    for name in order:
        second.run("dvc", "pull", "-R", f"data/{name}")
        jobs = second.plan()
        if "embeddings" in order[: order.index(name) + 1]:
            assert not {"extract", "fetch", "train_teacher"} & jobs.keys(), (name, jobs)
    assert jobs.get("download", 0) == ("datasets" not in order)


@pytest.mark.long
def test_one_teacher_alone(first, second):
    second.run("dvc", "pull", "-R", "data/datasets", "data/teachers")
    (folder,) = (path for path in (first.folder / "data/embeddings/digits").iterdir() if path.name.startswith("toy-a"))
    second.run("dvc", "pull", "-R", f"data/embeddings/digits/{folder.name}")
    jobs = second.plan()
    assert jobs["extract"] == 1
    assert not {"download", "fetch"} & jobs.keys()


@pytest.mark.long
def test_another_preprocessing_plans_its_own_extraction(second):
    second.run("dvc", "pull")
    processor = second.folder / "toy-a/preprocessor_config.json"
    processor.write_text(processor.read_text().replace("0.5", "0.4"))
    jobs = second.plan()
    assert (jobs["fetch"], jobs["extract"]) == (1, 1)
    assert jobs["train"] == 3
    assert "download" not in jobs


def flip(path: Path) -> None:
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cached(root: Path, file: Path) -> Path:
    """Return where dvc keeps a file with these bytes."""
    content = file.read_bytes()
    (found,) = (path for path in root.rglob("*") if path.is_file() and path.read_bytes() == content)
    return found


@pytest.mark.parametrize("where", ["remote", pytest.param("cache", marks=pytest.mark.long)])
def test_damage_in_dvcs_keeping_is_found_and_never_trained_on(where, first, second, tmp_path):
    store = next(path for path in sorted((first.folder / "data").rglob("prototypes.npy")))
    here = second.folder / store.relative_to(first.folder)
    if where == "remote":
        remote = Path(shutil.copytree(first.folder.parent / "remote", tmp_path / "remote"))
        flip(cached(remote, store))
        second.run("dvc", "remote", "modify", "--local", "shared", "url", str(remote))
        second.run("dvc", "pull", check=False)
    else:
        second.run("dvc", "pull")
        flip(cached(second.folder / ".dvc/cache", store))
        here.unlink()
        second.run("dvc", "checkout", "--force")
    assert here.read_bytes() != store.read_bytes(), "the control: dvc itself lets it pass"
    verified = second.run("clipkd", "verify", "data", check=False)
    assert verified.returncode == 3
    assert f"{here.relative_to(second.folder)} is damaged" in verified.stdout
    (second.folder / CONFIG[1]).write_text(WITHOUT_SCORES)
    answer = second.snakemake("--keep-going", *RUNS, check=False)
    assert answer.returncode != 0
    logs = "\n".join(path.read_text() for path in (second.folder / "logs/runs").rglob("*.log"))
    assert f"{here.relative_to(second.folder)} is damaged" in logs
    trained = list((second.folder / "results/runs").rglob("embed-KD/seed0/metrics.json"))
    assert len(trained) == 1, "only the other teacher's student"


def test_without_dvc_the_workflow_says_what_is_missing(first):
    hidden = first.folder.parent / "bin"
    hidden.mkdir()
    for name in ("snakemake", "clipkd", "python3"):
        (hidden / name).symlink_to(Path(sys.executable).parent / name)
    environment = first.environment | {"PATH": f"{hidden}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    command = ["snakemake", "--cores", "1", "track", *CONFIG]
    answer = subprocess.run(command, cwd=first.folder, env=environment, capture_output=True, text=True)
    assert answer.returncode != 0
    assert "dvc is not installed here: pip install dvc" in answer.stdout


@pytest.fixture(scope="module")
def with_runs(first, tmp_path_factory) -> Clone:
    """Person A's project, in which the finished runs are tracked too."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    shutil.copytree(first.folder, folder, symlinks=True)
    a = Clone(folder)
    a.snakemake("track_runs")
    a.run("clipkd", "tables", "--summary", "results/summary.json")
    a.run("dvc", "push")
    a.run("git", "add", ".")
    a.run("git", "commit", "--quiet", "-m", "runs")
    return a


@pytest.mark.long
def test_pulled_runs_are_not_trained_again(with_runs, tmp_path):
    b = clone(with_runs, tmp_path / "b")
    b.run("dvc", "pull")
    assert "train" not in b.plan()
    assert "resolve" in b.plan()
    run = next((b.folder / "results/runs").rglob("metrics.json")).parent
    assert not list(run.glob(".lock*")), "who trained it is nobody's business"
    # The control: a run that was not pulled.
    shutil.rmtree(run)
    assert b.plan()["train"] == 1


@pytest.mark.long
def test_the_summary_is_in_git_and_dvc_shows_what_changed(with_runs, tmp_path):
    b = clone(with_runs, tmp_path / "b")
    path = b.folder / "results/summary.json"
    summary = json.loads(path.read_text())
    (toy,) = (name for name in summary["corrected"]["digits"]["tiny-32"] if name.startswith("toy-a"))
    cell = summary["corrected"]["digits"]["tiny-32"][toy]["vanilla"]
    rows = list(csv.DictReader((with_runs.folder / "results/tables/runs.csv").open()))
    (row,) = (
        row for row in rows if (row["teacher_key"], row["train_type"], row["is_headline"]) == (toy, "vanilla", "True")
    )
    assert cell["n"] == 1
    assert cell["top1"] == pytest.approx(float(row["top1"]), abs=1e-6)
    before = cell["top1"]
    cell["top1"] = 0.99
    path.write_text(json.dumps(summary))
    changed = json.loads(b.run("dvc", "metrics", "diff", "--json").stdout)["results/summary.json"]
    assert changed == {
        f"corrected.digits.tiny-32.{toy}.vanilla.top1": {
            "old": before,
            "new": 0.99,
            "diff": pytest.approx(0.99 - before),
        }
    }
    shown = with_runs.run("dvc", "plots", "show", "--json").stdout
    assert all(train_type in shown for train_type in ("vanilla", "embed-KD"))


@pytest.mark.long
def test_another_project_takes_one_teachers_embeddings(with_runs, tmp_path):
    folder = copy_workflow(tmp_path / "other")
    for path in (with_runs.folder / name for name in ("toy-a", "toy-b", "config")):
        shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
    shutil.copy(ROOT / ".gitignore", folder)
    other = Clone(folder)
    other.run("git", "init", "--quiet")
    other.run("dvc", "init", "--quiet")
    source = str(with_runs.folder)
    names = other.run("dvc", "list", source, "data/embeddings/digits").stdout.split()
    (toy,) = (name for name in names if name.startswith("toy-a"))
    assert other.plan()["extract"] == 2
    (folder / "data/embeddings/digits").mkdir(parents=True)
    other.run("dvc", "import", source, f"data/embeddings/digits/{toy}", "--out", f"data/embeddings/digits/{toy}")
    assert other.plan()["extract"] == 1, "only the other teacher's"
    assert "4 sound, 0 damaged" in other.run("clipkd", "verify", "data").stdout
