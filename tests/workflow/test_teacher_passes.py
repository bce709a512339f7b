"""How often a teacher looks: counted over a whole grid of a hundred classes, at the network itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import material
from clipkd.core import registry
from clipkd.core.artifacts import read_manifest
from clipkd.embeddings import head, prepare, transformers_encoder
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.spec import cells
from clipkd.spec.grid import expand
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config, Hyperparameters
from clipkd.spec.views import Sample

CPU = torch.device("cpu")
TRAIN, TEST, CLASSES, PER_CLASS = 2000, 400, 100, 5
METHODS = ["supervised", "vanilla", "teacher-KD", "embed-KD", "embed-KD-random", "embed-KD-permuted", "embed-KD-onehot"]


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """Images in each call of any teacher's network, whatever the code around it counts."""
    calls: list[int] = []
    real = transformers_encoder.load_model

    def load_model(*given):
        model, layer = real(*given)
        model.register_forward_pre_hook(
            lambda _, __, arguments: calls.append(len(arguments["pixel_values"])), with_kwargs=True
        )
        return model, layer

    monkeypatch.setattr(transformers_encoder, "load_model", load_model)
    return calls


@pytest.fixture
def dataset(monkeypatch) -> Iterator[str]:
    """The name of a dataset, known as long as the test lasts."""
    monkeypatch.setattr(material, "CLASSES", CLASSES)
    name = material.add_dataset(TRAIN, TEST)
    yield name
    del registry.specs("clipkd.plugins.datasets")[name]


def grid(dataset: str, vit: Path, source: str = "cached", methods: list[str] = METHODS) -> list[cells.Cell]:
    """Return every cell of one teacher: all train types, both recipes, two students of 32 px, two seeds."""
    block = {
        "name": "all",
        "datasets": [dataset],
        "teachers": [str(vit)],
        "students": ["tiny-32", "base-32"],
        "train_types": methods,
        "recipes": ["reference", "corrected"],
        "seeds": [0, 1],
        "teacher_source": source,
    }
    return expand(Config.model_validate({"grid": [block], "training": {"epochs": 1}}))[0]


def first_step(cell: cells.Cell, layout: Layout) -> None:
    """Make what a cell's training reads, and take the teacher's signal of its first batch."""
    prepare.for_training(cell, layout, CPU, 500)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    signal = open_teacher_targets(job)
    signal(next(iter(open_batches(job, signal).epoch(64, False, torch.Generator().manual_seed(0)))))


def test_a_grid_runs_its_teacher_once(seen, dataset, vit_folder, tmp_path, monkeypatch):
    # How well the probe fits is not the question here.
    monkeypatch.setattr(head, "ITERATIONS", 1)
    monkeypatch.setattr(head, "STRENGTHS", (1e-2,))
    layout = Layout(tmp_path, sample=Sample(PER_CLASS))
    every = grid(dataset, vit_folder)
    assert len(every) == 2 * 2 * 2 * len(METHODS)
    per_recipe = 2 * TRAIN + TEST + CLASSES * PER_CLASS
    for recipe in ("reference", "corrected"):
        before = sum(seen)
        for cell in (cell for cell in every if cell.recipe == recipe):
            first_step(cell, layout)
        assert sum(seen) - before == per_recipe, "both views of each training image, the test images, the prototypes'"
    manifests = [read_manifest(path.parent) for path in tmp_path.rglob("manifest.json")]
    noted = [found["facts"]["forward_passes"] for found in manifests if found["kind"] == "embeddings"]
    assert sum(noted) == sum(seen) == 2 * per_recipe
    assert len(noted) == 4

    # The control: a live teacher looks in every step.
    live = grid(dataset, vit_folder, "live", ["teacher-KD"])[0]
    first_step(live, layout)
    assert sum(seen) == 2 * per_recipe + 64
