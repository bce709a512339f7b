"""A grid of the user's own: teachers of a CLIP by three outputs, two at once, a timm student; a few lines of YAML."""

from __future__ import annotations

import csv
import json
import re

import pytest

from tests import checkpoints
from tests.grids import block, grid
from tests.workflow.test_workflow import copy_workflow, plan, snakemake

pytestmark = pytest.mark.long


def config(clip: object) -> str:
    blocks = (
        block("names", teachers="[names]", train_types="[embed-KD]"),
        block("both", teachers="[eyes+names]", students='["timm:test_resnet@48"]', train_types="[embed-KD]"),
        block("eyes", teachers="[eyes]", train_types="[teacher-KD]"),
    )
    teachers = f"teachers:\n  eyes: {clip}:pooler\n  names: {clip}:text\n"
    templates = 'prototypes: {per_class: 4, templates: ["a photo of a {}.", "this is the {}."]}\n'
    return teachers + grid(*blocks) + templates


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = copy_workflow(tmp_path_factory.mktemp("own"))
    clip = checkpoints.save("clip", root / "my checkpoints+/clip")
    (root / "mine.yaml").write_text(config(clip.relative_to(root)))
    return root


@pytest.fixture(scope="module")
def finished(project):
    done = snakemake(project, "--configfile", "mine.yaml", "--quiet", "rules", "--", "results/tables/teachers.csv")
    assert done.returncode == 0, done.stdout
    return project


def test_a_grid_of_ones_own_runs_to_its_tables(finished):
    project = finished
    with open(project / "results/tables/prototypes.csv", newline="") as stream:
        rows = {(row["student"], row["teacher"].count("+names="), row["zero_shot_percent"] != ""): row
                for row in csv.DictReader(stream)}  # fmt: skip
    # Zero-shot stands beside the runs whose one teacher reads names: its eyes are in the grid.
    assert set(rows) == {("tiny-32", 0, True), ("timm:test_resnet@48", 1, False)}
    for row in rows.values():
        assert 0 <= float(row["nearest_prototype_mean_percent"]) <= 100
    runs = project / "results/runs/corrected/digits"
    assert {path.relative_to(runs).as_posix() for path in runs.glob("*/*")} == {
        "tiny-32/names", "tiny-32/eyes", "timm-test-resnet-48/eyes+names",
    }  # fmt: skip
    metrics = json.loads((runs / "tiny-32/names/embed-KD/seed0/metrics.json").read_text())
    assert metrics["zero_shot"]["embeddings"].startswith("eyes/")
    checkpoints_made = sorted(path.parent.name for path in (project / "data/teachers").glob("*/*"))
    assert len(checkpoints_made) == 2, "one for the vision tower, one for the text tower"


def test_nothing_is_left_to_do_and_a_new_template_makes_only_what_it_changes(finished):
    project = finished
    jobs, said = plan(project, "--configfile", "mine.yaml", "--", "results/tables/teachers.csv")
    assert jobs == {}, said
    other = (project / "mine.yaml").read_text().replace("this is the {}.", "one {}.")
    (project / "other.yaml").write_text(other)
    jobs, said = plan(project, "--configfile", "other.yaml", "--", "results/tables/teachers.csv")
    # The text tower's store and its prototypes; the two runs that read them. No image goes through a teacher again.
    assert (jobs["extract"], jobs["train"]) == (1, 2), said


def test_new_class_names_make_only_what_reads_them(finished):
    project = finished
    english = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    words = {str(number): word for number, word in enumerate(english)}
    (project / "words.json").write_text(json.dumps(words))
    given = (project / "mine.yaml").read_text() + "class_names: {digits: words.json}\n"
    (project / "named.yaml").write_text(given)
    jobs, said = plan(project, "--configfile", "named.yaml", "--", "results/tables/teachers.csv")
    # As with a new template: the dataset is not packed again, and the run that reads no names stays as it is.
    assert (jobs["extract"], jobs["train"]) == (1, 2), said
    assert not {"download", "fetch"} & set(jobs), said
    # Figures show names: they are drawn again when the file changes.
    _, said = plan(project, "--configfile", "named.yaml", "--", "report")
    (block,) = re.findall(r"rule report:\n +input: (.*)", said)
    assert str(project / "words.json") in block.split(", ")
    names = "results/runs/corrected/digits/tiny-32/names/embed-KD/seed0"
    done = snakemake(project, "--configfile", "named.yaml", "--quiet", "rules", "--", "runs")
    assert done.returncode == 0, done.stdout
    assert json.loads((project / names / "manifest.json").read_text())["facts"]["class_names"] == list(words.values())
