"""A chain in a grid, by one call of Snakemake: a student teaches a second one, which teaches a third."""

from __future__ import annotations

import re

import pytest

from clipkd.core.artifacts import read_manifest
from tests.conftest import save_vit
from tests.grids import block, grid
from tests.workflow.test_workflow import copy_workflow, plan, snakemake

pytestmark = pytest.mark.long

FIRST = "corrected/digits/tiny-32/vit/embed-KD/seed0"
SECOND = "corrected/digits/tiny-32/first/vanilla/seed0"
TEACHERS = f"teachers:\n  vit: ./vit\n  first: run:{FIRST}\n  second: run:{SECOND}\n"
LAST = grid(block(teachers="[second]", train_types="[embed-KD, teacher-KD]"))
CONFIG = f"{TEACHERS}{LAST}prototypes: {{per_class: 4}}\n"


def test_a_chain_is_trained_in_order_by_one_call(tmp_path):
    project = copy_workflow(tmp_path)
    save_vit(project / "vit")
    (project / "mine.yaml").write_text(CONFIG)
    asked = ("--configfile", "mine.yaml", "--", "results/tables/teachers.csv")
    jobs, said = plan(project, *asked)
    assert jobs["train"] == 4, said
    done = snakemake(project, "--quiet", "rules", *asked)
    assert done.returncode == 0, done.stdout
    runs = project / "results/runs"
    assert {path.parent.relative_to(runs).as_posix() for path in runs.glob("**/metrics.json")} == {
        FIRST, SECOND, *(f"corrected/digits/tiny-32/second/{name}/seed0" for name in ("embed-KD", "teacher-KD")),
    }  # fmt: skip
    # Each teacher is the student that the run before it trained, weight by weight.
    brought = [read_manifest(path.parent) for path in (project / "data/teachers").glob("*/*/manifest.json")]
    weights = {one["facts"]["from"]: one["facts"]["weights_sha256"] for one in brought if "from" in one["facts"]}
    trained = {run: read_manifest(runs / run)["files"]["student.safetensors"]["sha256"] for run in (FIRST, SECOND)}
    assert weights == {f"results/runs/{run}": digest for run, digest in trained.items()}
    assert trained[FIRST] != trained[SECOND]  # the control
    rows = (project / "results/tables/accuracy-corrected-last-top1.md").read_text()
    assert re.findall(r"^\| (\w+) \| [\d–]", rows, flags=re.MULTILINE) == ["second", "first", "vit"]
    assert plan(project, *asked)[0] == {}
