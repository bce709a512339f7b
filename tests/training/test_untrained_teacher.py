"""A teacher with random weights: embed-KD must not be found to profit from its content (docs/method.md, "Controls")."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from clipkd.embeddings import prepare
from clipkd.plugins import methods
from clipkd.plugins.methods.embed_kd_random import RandomPrototypes
from clipkd.runs.assignment import Assignment, train_in_stacks
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from clipkd.tables.arms import Arm
from clipkd.tables.comparisons import compare
from tests.conftest import save_vit

SEEDS = range(10)
# Few enough for the difference to orthogonal vectors to be large: a longer training makes it smaller.
NUMBERS = Hyperparameters(epochs=4, learning_rate=1e-3)
SIZES = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 384}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """A ViT with the weights that transformers starts with."""
    folder = tmp_path_factory.mktemp("teacher") / "untrained"
    save_vit(folder, std=None, **SIZES, image_size=32)
    return folder


def independent_directions(self: object, prototypes: torch.Tensor, seed: int) -> torch.Tensor:
    """Random prototypes as earlier versions drew them: with the lengths of the class means, but not their angles."""
    drawn = torch.randn(prototypes.shape, generator=torch.Generator().manual_seed(seed), dtype=prototypes.dtype)
    return normalize(drawn, dim=-1) * prototypes.norm(dim=-1, keepdim=True)


def mean_cosine(prototypes: torch.Tensor) -> float:
    """Return the mean cosine between the prototypes of two classes."""
    unit = normalize(prototypes, dim=1)
    cosines = unit @ unit.T
    return ((cosines.sum() - cosines.trace()) / (len(unit) * (len(unit) - 1))).item()


def test_controls_are_as_nearly_parallel_as_an_untrained_teachers_prototypes(untrained, digits_folder):
    layout, cell = Layout(digits_folder), Cell("corrected", "digits", "tiny-32", str(untrained), "embed-KD", 0)
    prepare.for_training(cell, layout, torch.device("cpu"), 256)
    prototypes = torch.from_numpy(np.load(layout.prototypes(cell)[0] / "prototypes.npy"))
    own = mean_cosine(prototypes)
    assert own > 0.9
    for name in ("embed-KD-permuted", "embed-KD-random"):
        assert mean_cosine(methods.get(name).prepare(prototypes, seed=0)) == pytest.approx(own, abs=1e-5)
    assert abs(mean_cosine(independent_directions(None, prototypes, seed=0))) < 0.2


@pytest.mark.long
def test_an_untrained_teachers_content_is_not_found_to_matter(untrained, digits_folder, tmp_path, monkeypatch):
    """The control of the test: beside directions that are drawn one by one, it is found to."""
    monkeypatch.setattr(RandomPrototypes, "prepare", independent_directions)
    torch.set_num_threads(1)
    types = ("supervised", "embed-KD", "embed-KD-permuted", "embed-KD-random")
    first = Cell("corrected", "digits", "tiny-32", str(untrained), "embed-KD", 0, epochs=NUMBERS.epochs)
    cells = [
        replace(first, train_type=name, seed=seed, teacher="none" if name == "supervised" else first.teacher)
        for name in types
        for seed in SEEDS
    ]
    layout = Layout(digits_folder)
    train_in_stacks([Assignment(one, NUMBERS, layout, "cpu", tmp_path / one.folder) for one in cells], size=20)
    arms = [arm([one for one in cells if one.train_type == name], tmp_path) for name in types]
    found, _ = compare(arms)
    (content,) = (one for one in found if one.question == "content")
    assert content.against == "supervised and embed-KD-permuted"
    assert content.verdict == "no difference shown", content.sentence
    (biased,) = (one for one in found if (one.method, one.against) == ("embed-KD", "embed-KD-random"))
    assert biased.verdict == "better", biased.sentence


def arm(cells: list[Cell], folder: Path) -> Arm:
    """Return the test accuracies of a train type's students, in percent."""
    first, points = cells[0], {}
    for one in cells:
        metrics = json.loads((folder / one.folder / "metrics.json").read_text())
        points[one.seed] = 100 * metrics["last"]["test"]["top1"]
    return Arm(first.recipe, first.dataset, first.student, first.teacher, first.train_type, "last", points, False)
