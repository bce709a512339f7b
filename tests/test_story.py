"""Read this test first. It is all of clipkd: a dataset, a teacher that runs once, students, a table, their use."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import clipkd
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import prepare
from clipkd.embeddings.teacher import Teacher
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_job
from clipkd.runs.training import train
from clipkd.spec.grid import expand
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config
from clipkd.tables import write_tables

CPU = torch.device("cpu")


def test_from_a_dataset_to_a_table(vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = {
        "name": "story", "datasets": ["digits"], "teachers": [str(vit_folder)], "students": ["tiny-32"],
        "train_types": ["supervised", "embed-KD"], "recipes": ["corrected"], "seeds": [0, 1],
    }  # fmt: skip
    training = {"epochs": 1, "batch_size": 64, "learning_rate": 2e-3}
    config = Config.model_validate({"grid": [block], "training": training, "prototypes": {"per_class": 20}})
    layout, results, shown = Layout.of(config, tmp_path / "data"), tmp_path / "results", []
    embed = Teacher.embed
    monkeypatch.setattr(Teacher, "embed", lambda self, inputs: shown.append(len(inputs)) or embed(self, inputs))

    cells, left_out = expand(config)
    for cell in cells:
        prepare.for_training(cell, layout, CPU)  # dataset, teacher, embeddings, prototypes: made if missing
        job = open_job(cell, config.hyperparameters(cell.epochs), layout, CPU)
        train(job, RunFolder(results / "runs" / cell.folder))
    write_tables(config, results, layout.data, results / "tables")

    assert (len(cells), left_out) == (4, [])
    assert sum(shown) == 10 * 20, "the teacher sees each image of the sample once, whatever the number of students"
    spec = cells[0].dataset_spec
    dataset = open_dataset(spec, layout.dataset(spec))
    images = [np.asarray(dataset.image("test", row)) for row in range(len(dataset.test_labels))]
    accuracies = []
    for cell in cells[2:]:  # embed-KD, seeds 0 and 1: the students are loaded, as a user does, and asked
        student = clipkd.load(results / "runs" / cell.folder, device="cpu")
        answers = student.probabilities(images).argmax(axis=1)
        accuracies.append(np.mean(answers == dataset.test_labels))
    table = list(csv.DictReader((results / "tables/accuracy-corrected-selected-top1.csv").open()))
    (row,) = (row for row in table if row["train_type"] == "embed-KD")
    assert float(row["mean_percent"]) == pytest.approx(100 * np.mean(accuracies))
    assert float(row["deviation_percent"]) == pytest.approx(100 * np.std(accuracies, ddof=1))
    assert row["n"] == "2"
