"""`clipkd check` knows how many images an epoch has, before anything is packed too: as many as the run then counts."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.cli import main
from clipkd.data.dataset import prepare_dataset
from clipkd.plugins import datasets
from clipkd.runs.epoch_size import image_count
from clipkd.runs.job import open_job
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests.workflow.test_workflow import copy_workflow, snakemake

BASE = Path(__file__).parents[2] / "config/config.yaml"
CONFIG = """\
grid:
  - {{name: one, datasets: [digits], teachers: [digits-vit-s], students: [{student}], train_types: [supervised],
     recipes: [{recipe}], seeds: [0], labels: [{labels}]}}
training: {{epochs: 2, batch_size: {batch}}}
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> tuple[Path, str]:
    """A data folder with a packed folder of images, some without a label, and their source."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for place, count in (("train/a", 9), ("train/b", 12), ("train/unlabeled", 40), ("val/a", 2), ("val/b", 2)):
        (root / "images" / place).mkdir(parents=True)
        for number in range(count):
            picture = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
            picture.save(root / "images" / place / f"{number}.png")
    source = f"{root / 'images'}?size=8"
    spec = datasets.get("photos", source)
    prepare_dataset(spec, Layout(root / "data").dataset(spec), source)
    return root / "data", source


@pytest.mark.parametrize(
    ("recipe", "labels"), itertools.product(["corrected", "reference"], ["all", 12, 100, 1000, "none"])
)
def test_an_epoch_has_the_images_that_the_run_counts(recipe, labels, digits_folder, photos, tmp_path):
    for data, dataset, source in ((digits_folder, "digits", None), (photos[0], "photos", photos[1])):
        if (dataset, labels) in {("photos", 100), ("photos", 1000)}:
            continue
        cell = Cell(recipe, dataset, "tiny-32", "none", "supervised", 0, epochs=2, labels=labels, source=source)
        job = open_job(cell, Hyperparameters(), Layout(data), torch.device("cpu"))
        assert image_count(cell, data) == job.images.count
        assert image_count(cell, tmp_path) == (job.images.count if dataset == "digits" else None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": 5000}, "labels: 5000: Digits has 1,442 labelled images, 180 of them held out"),
        ({"labels": 5}, "labels: 5: a fifth is held out for validation, and Digits has 10 classes"),
        ({"batch": 4000}, "batch size 4000 is larger than the 1,262 training images of Digits"),
        (
            {"batch": 131, "student": "timm:test_resnet@32", "recipe": "reference"},
            "the last batch of an epoch has one image (1,442 training images in batches of 131)",
        ),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_check_refuses_what_training_would(is_packed, changes, message, digits_folder, tmp_path, monkeypatch, capsys):
    usual = {"student": "tiny-32", "recipe": "corrected", "labels": "all", "batch": 64}
    (tmp_path / "mine.yaml").write_text(CONFIG.format(**usual | changes))
    monkeypatch.chdir(tmp_path)
    if is_packed:
        (tmp_path / "data").symlink_to(digits_folder)
    assert main(["check", "mine.yaml", "--base", str(BASE)]) == (2 if message else 0)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": "5"}, "labels: 5: a fifth is held out for validation"),
        ({"student": "timm:resnet9@32"}, "student 'timm-resnet9-32': timm "),
        ({"labels": "none"}, "train type 'supervised' needs classes, and with labels: none there are none"),
    ],
)
def test_what_can_not_work_is_refused_by_file_line_and_block(changes, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"student": "tiny-32", "recipe": "corrected", "labels": "all", "batch": 64}
    Path("mine.yaml").write_text("# a line before it\n" + CONFIG.format(**given | changes))
    assert main(["check", "mine.yaml", "--base", str(BASE)]) == 2
    assert f"error: mine.yaml:3: grid[0] ('one'): {said}" in capsys.readouterr().err


def test_a_control_within_classes_is_refused_where_some_images_have_no_label(photos, tmp_path, monkeypatch, capsys):
    data, source = photos
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data)
    config = CONFIG.format(student="tiny-32", recipe="corrected", labels="all", batch=4).replace("[digits]", "[photos]")
    config += f"sources: {{photos: '{source}'}}\n"
    for train_type, code in (("vanilla-permuted", 0), ("vanilla-within-class", 2)):
        Path("mine.yaml").write_text(config.replace("[supervised]", f"[{train_type}]"))
        assert main(["check", "mine.yaml", "--base", str(BASE)]) == code
    said = capsys.readouterr().err
    assert "error: mine.yaml:2: grid[0] ('one'): train type 'vanilla-within-class': some images of photos" in said
    assert "use 'vanilla-permuted'" in said


def test_a_workflow_does_not_start_what_the_check_refuses(tmp_path):
    """Else a teacher would be trained, and shown all images, before the first student is refused."""
    project = copy_workflow(tmp_path)
    config = CONFIG.format(student="tiny-32", recipe="corrected", labels="all", batch=5000)
    (project / "mine.yaml").write_text(config)
    answer = snakemake(project, "--dry-run", "--configfile", "mine.yaml")
    assert answer.returncode != 0
    assert "batch size 5000 is larger than the 1,262 training images of Digits" in answer.stdout
