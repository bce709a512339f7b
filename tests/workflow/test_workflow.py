"""The real Snakemake on the real workflow: it plans exactly the grid, refuses bad configs, and finishes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
grid:
  - name: small
    datasets: [digits]
    teachers: [digits-vit-xs]
    students: [tiny-32]
    train_types: [supervised]
    recipes: [corrected]
    seeds: [0, 1]
training: { epochs: 1, learning_rate: 1e-3, device: cpu }
"""


@pytest.fixture
def workplace(tmp_path) -> Path:
    """A folder that holds the workflow and nothing else."""
    for name in ("workflow", "config", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Snakefile", tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "snakemake", *arguments]
    environment = os.environ | {"PATH": tools, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Return rule -> number of jobs of a dry run; nothing planned gives an empty dict."""
    answer = snakemake(folder, "--dry-run", "--quiet", "rules", *arguments)
    output = answer.stdout + answer.stderr
    assert answer.returncode == 0, output
    table = output.partition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}


def test_the_demo_plans_exactly_its_grid(workplace):
    teachers, recipes, seeds, controls = 2, 2, 2, 3
    methods = 1 + 3 * teachers  # supervised has no teacher; vanilla, teacher-KD, embed-KD have each
    live = 2
    assert planned(workplace, "--configfile", "config/demo.yaml") == {
        "download": 1,
        "fetch": teachers,
        # Per teacher and recipe (each normalises differently): every image, and the sample for prototypes.
        "extract": teachers * recipes * 2,
        "prototypes": teachers * recipes,
        "probe": teachers * recipes,
        "train": recipes * seeds * (methods + controls) + live,
        "resolve": 1,
        "tables": 1,
        "figures": 1,
        "all": 1,
    }


@pytest.mark.parametrize("entry", ["Snakefile", "workflow/Snakefile"])
def test_the_paper_grid_extracts_once_per_teacher_and_not_per_student(workplace, entry):
    datasets, teachers, recipes, seeds = 2, 3, 2, 3  # imagenet has no folder, vit-b32 no commit yet
    paper = datasets * (1 + 3 * teachers) * recipes * seeds
    controls = datasets * 3 * recipes * seeds
    students = 3 * recipes * seeds
    live = datasets * 2
    jobs = planned(workplace, "--snakefile", entry)
    assert jobs["train"] == paper + controls + students + live
    assert jobs["extract"] == datasets * teachers * recipes * 2
    assert jobs["fetch"] == teachers
    assert jobs["download"] == datasets
    assert jobs["probe"] == jobs["prototypes"] == datasets * teachers * recipes


def test_a_misspelt_key_is_refused_before_any_work(workplace):
    (workplace / "bad.yaml").write_text(SMALL.replace("learning_rate", "learing_rate"))
    answer = snakemake(workplace, "--dry-run", "--configfile", "bad.yaml")
    output = answer.stdout + answer.stderr
    assert answer.returncode != 0
    assert "bad.yaml:10: training" in output
    assert "did you mean 'learning_rate'?" in output
    assert "Traceback" not in output


def test_a_small_grid_runs_to_its_tables_and_then_has_nothing_to_do(workplace):
    answer = snakemake(workplace, "--cores", "2", "--configfile", "small.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    shown = (workplace / "results/tables/accuracy-corrected-last-top1.csv").read_text()
    runs = sorted((workplace / "results/runs").rglob("metrics.json"))
    assert len(runs) == 2
    mean = sum(json.loads(run.read_text())["last"]["test"]["top1"] for run in runs) / 2
    assert f"{100 * mean:.6g}"[:5] in shown or f"{mean:.6g}"[:6] in shown
    assert (workplace / "results/figures/accuracy-digits.png").stat().st_size > 10_000
    assert planned(workplace, "--configfile", "small.yaml") == {}
    # Another setting trains the students again, and reads the same data.
    again = planned(workplace, "--configfile", "small.yaml", "--config", "training={epochs: 2}")
    assert {rule: again.get(rule, 0) for rule in ("download", "train")} == {"download": 0, "train": 2}
