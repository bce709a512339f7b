"""Key `evaluation` of a config: each student is measured by the workflow, into tables, runs.csv and report."""

from __future__ import annotations

import csv
import json
import statistics
from typing import get_args

import pytest

from clipkd.export import measures
from clipkd.spec.settings import MeasureName
from tests.grids import block, grid
from tests.workflow.test_workflow import copy_workflow, plan, snakemake

AXES = {"teachers": "[digits-vit-s-untrained]", "train_types": "[supervised, vanilla]", "seeds": "[0, 1]"}
UNMEASURED = grid(block(**AXES), training="epochs: 2, device: cpu")
CONFIG = "evaluation: [calibration, classes, knn, agreement]\n" + UNMEASURED


def test_the_config_knows_every_measure():
    assert sorted(get_args(MeasureName)) == sorted(measures.names())


@pytest.mark.long
def test_what_a_config_asks_to_measure_is_in_tables_and_report(tmp_path):
    project = copy_workflow(tmp_path)
    (project / "mine.yaml").write_text(CONFIG)
    given = ("--configfile", "mine.yaml")
    made = snakemake(project, "--quiet", "rules", *given)
    assert made.returncode == 0, made.stdout
    place = project / "results/evaluations/corrected/digits/tiny-32/digits-vit-s-untrained/vanilla"
    found = [json.loads((place / f"seed{seed}.json").read_text()) for seed in (0, 1)]
    agreements = [one["measures"]["agreement"]["numbers"]["top1_agreement"] for one in found]

    with open(project / "results/tables/evaluation.csv") as file:
        rows = {row["train_type"]: row for row in csv.DictReader(file)}
    taught = rows["vanilla"]
    assert float(taught["agreement_top1_agreement_mean"]) == pytest.approx(statistics.mean(agreements))
    assert float(taught["agreement_top1_agreement_deviation"]) == pytest.approx(statistics.stdev(agreements))
    assert rows["supervised"]["agreement_top1_agreement_mean"] == "", "it has no teacher"
    assert float(rows["supervised"]["knn_top1_mean"]) > 0.5
    with open(project / "results/tables/runs.csv") as file:
        values = [row["agreement_top1_agreement"] for row in csv.DictReader(file) if row["train_type"] == "vanilla"]
    assert sorted(map(float, filter(None, values))) == pytest.approx(sorted(agreements)), "of the selected epoch only"
    page = (project / "results/report.html").read_text(encoding="utf-8")
    assert 'id="evaluation"' in page
    assert "Not measured: agreement of supervised" in page
    for stem in ("reliability-corrected-digits-tiny-32", "confusion-corrected-digits-tiny-32"):
        assert (project / f"results/figures/{stem}.png").stat().st_size > 10_000
    assert plan(project, *given)[0] == {}

    # What is gone is measured again, and nothing else; what was measured by hand stays.
    (place / "seed0.json").unlink()
    assert plan(project, *given)[0]["evaluate"] == 1
    assert "train" not in plan(project, *given)[0]
    other = json.loads((place / "seed1.json").read_text())
    other["measures"]["probe"] = other["measures"]["knn"]
    (place / "seed1.json").write_text(json.dumps(other))
    (project / "mine.yaml").write_text(CONFIG.replace("knn, ", ""))
    assert snakemake(project, "--quiet", "rules", *given).returncode == 0
    assert "probe" in json.loads((place / "seed1.json").read_text())["measures"]
    # Without the key, neither table nor section.
    (project / "mine.yaml").write_text(UNMEASURED)
    assert snakemake(project, "--quiet", "rules", *given).returncode == 0
    assert not (project / "results/tables/evaluation.csv").exists()
    assert 'id="evaluation"' not in (project / "results/report.html").read_text(encoding="utf-8")
