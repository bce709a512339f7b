"""What is made once must not be made again because the grid around it grew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.workflow.test_workflow import MINI, copy_workflow, plan, snakemake


def commands(project: Path, config: str) -> set[str]:
    """Return the commands that would make embeddings, prototypes and heads, but for what only sets their speed."""
    said = snakemake(project, "--dry-run", "--printshellcmds", "--configfile", config).stdout
    jobs = re.findall(r"exec clipkd (extract .*?) > /dev/null", said)
    made = {command for job in jobs for command in job.split(" then ")}
    return {re.sub(r" --(embed-batch-size|device) \S+", "", command) for command in made}


def test_what_else_the_grid_asks_for_does_not_change_how_shared_artefacts_are_made(tmp_path: Path) -> None:
    """A new student must not extract again, with other flags."""
    project = copy_workflow(tmp_path)
    demo = (project / "config/demo.yaml").read_text()
    more = demo.replace("[tiny-32]", "[base-32, tiny-32]").replace("[reference, corrected]", "[corrected, reference]")
    assert more != demo
    (project / "more.yaml").write_text(more + "\nembeddings: {batch_size: 32}\n")
    before = commands(project, "config/demo.yaml")
    assert len(before) == 2 * (2 + 1 + 1) + 5 * 2, "recipes x (two view sets, prototypes, head); seeds x (views, head)"
    assert commands(project, "more.yaml") == before


@pytest.mark.slow
def test_another_form_of_prototypes_and_shards_can_be_planned(tmp_path: Path) -> None:
    project = copy_workflow(tmp_path)
    (project / "more.yaml").write_text("prototypes: {form: kmeans-2}\nembeddings: {shards: 3}\n")
    config = ("--configfile", "config/demo.yaml", "more.yaml")
    said = snakemake(project, "--dry-run", "--printshellcmds", *config).stdout
    trained = [line for line in said.splitlines() if "clipkd train " in line and " embed-KD" in line]
    assert trained
    assert all("--prototype-form kmeans-2" in line for line in trained)
    assert len(re.findall(r" then prototypes (?:(?! then ).)*--prototype-form kmeans-2", said)) == 2, "recipes"
    said = snakemake(project, "--dry-run", "--printshellcmds", "extract_shards", *config).stdout
    shards = re.findall(r"clipkd extract .*--shard (\d)/3", said)
    assert sorted(shards) == sorted("123" * (2 * 2 + 5)), "recipes x two view sets; seeds"


def test_stores_of_k_views_are_planned_once_for_all_train_types(tmp_path: Path) -> None:
    project = copy_workflow(tmp_path)
    demo = (project / "config/demo.yaml").read_text().replace("teacher_source: live", "teacher_source: cached")
    demo = demo.replace("[reference, corrected]", "[modern-crop, modern-full]").replace("[reference]", "[modern-full]")
    (project / "views.yaml").write_text(demo.replace("    epochs: 3\n", "") + "\nembeddings: {views: 3}\n")
    found = [line for line in commands(project, "views.yaml") if "--views replayed" in line]
    assert len(found) == 2, "recipes"
    assert all("--views-per-image 3" in line for line in found)


@pytest.mark.long
def test_a_teacher_is_not_trained_again_for_a_grid_that_asks_something_else_of_it(tmp_path: Path) -> None:
    """And all that is missing is planned: where a made teacher ran again, Snakemake forgot what depends on it."""
    project = copy_workflow(tmp_path)
    grid = MINI.replace("digits-vit-s", "'trained:resnet10t@32?epochs=1'")
    (project / "scores.yaml").write_text(grid.replace("supervised", "vanilla"))
    answer = snakemake(project, "--configfile", "scores.yaml", "--printshellcmds", "--until", "train_teacher")
    assert answer.returncode == 0, answer.stdout
    assert "head=own" in answer.stdout
    (project / "embeddings.yaml").write_text(grid.replace("supervised", "feature-KD"))
    jobs, said = plan(project, "--configfile", "embeddings.yaml")
    assert "train_teacher" not in jobs, said
    assert (jobs["extract"], jobs["train"], jobs["report"]) == (1, 2, 1)
