"""A sweep from the config to its table, by the workflow."""

from __future__ import annotations

import csv
import re

import pytest

from tests.grids import block, grid
from tests.workflow.test_workflow import copy_workflow, plan, snakemake

pytestmark = pytest.mark.long


def config(rates: str) -> str:
    axes = {"teachers": "[digits-vit-s-untrained]", "train_types": "[supervised, embed-KD]", "recipes": "[tuned]"}
    tuned = f"recipes:\n  tuned: {{base: corrected, learning_rate: {rates}, batch_size: 256}}\n"
    return tuned + grid(block(**axes), training="epochs: 2, device: cpu, stack: 1") + "prototypes: {per_class: 4}\n"


def test_a_sweep_is_trained_and_chosen_and_a_longer_list_trains_only_what_is_new(tmp_path):
    project = copy_workflow(tmp_path)
    (project / "sweep.yaml").write_text(config("[1e-5, 3e-3]"))
    made = snakemake(project, "--quiet", "rules", "--configfile", "sweep.yaml")
    assert made.returncode == 0, made.stdout
    with open(project / "results/tables/sweep.csv") as file:
        rows = list(csv.DictReader(file))
    chosen = {row["train_type"]: row["setting"] for row in rows if row["is_chosen"] == "1"}
    # Two epochs at 1e-5 leave a student at chance.
    assert chosen == {"supervised": "learning_rate 0.003", "embed-KD": "learning_rate 0.003"}
    assert [bool(row["test_mean_percent"]) for row in rows] == [row["is_chosen"] == "1" for row in rows]
    page = (project / "results/report.html").read_text(encoding="utf-8")
    assert "Settings of sweeps" in page
    assert "setting not chosen" in page
    assert plan(project, "--configfile", "sweep.yaml")[0] == {}
    (project / "sweep.yaml").write_text(config("[1e-5, 3e-3, 1e-3]"))
    jobs, said = plan(project, "--configfile", "sweep.yaml")
    assert jobs["train"] == 2
    assert set(re.findall(r"results/runs/(\S+?)/digits/\S+/\.done-", said.partition("rule train:")[2])) >= {
        "tuned.learning_rate-0.001"
    }
