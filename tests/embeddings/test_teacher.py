"""Strict loading: transformers would fill what is missing with random numbers; here it is an error."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipkd.core.errors import DataError
from clipkd.embeddings import prepare
from clipkd.embeddings.teacher import load
from clipkd.plugins import teachers
from clipkd.spec.layout import Layout
from tests.conftest import save_vit

CPU = torch.device("cpu")


def loaded(folder, tmp_path):
    """Load a checkpoint folder the way a run does: through the artefact store."""
    spec = teachers.get(str(folder))
    layout = Layout(tmp_path / "data")
    prepare.teacher(spec, layout, CPU)
    return load(spec, layout.teacher(spec), CPU)


@pytest.fixture
def copy(vit_folder, tmp_path):
    """A copy of the good checkpoint, to be spoiled."""
    return shutil.copytree(vit_folder, tmp_path / "spoiled")


def spoil(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_good_checkpoint_loads_every_weight(vit_folder, tmp_path):
    teacher = loaded(vit_folder, tmp_path)
    stored = load_file(vit_folder / "model.safetensors")
    assert teacher.parameters == sum(tensor.numel() for tensor in stored.values())
    assert (teacher.image_size, teacher.mean, teacher.std) == (24, (0.5,) * 3, (0.5,) * 3)
    assert teacher.head is None
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def query_name(weights) -> str:
    return next(
        name for name in weights if "1" in name and "q" in name and name.endswith("weight") and "attention" in name
    )


def test_a_missing_weight_is_named(copy, tmp_path):
    spoil(copy, lambda weights: weights.pop(query_name(weights)))
    with pytest.raises(DataError, match=r"1 weights:\n  missing: .*layers?\.1\..*(query|q_proj)\.weight"):
        loaded(copy, tmp_path)


def test_an_unexpected_weight_is_named(copy, tmp_path):
    spoil(copy, lambda weights: weights.update({"surprise.weight": torch.ones(2)}))
    with pytest.raises(DataError, match=r"unexpected: .*surprise\.weight"):
        loaded(copy, tmp_path)


def test_a_mis_shaped_weight_is_named(copy, tmp_path):
    spoil(copy, lambda weights: weights.update({query_name(weights): torch.ones(3, 3)}))
    with pytest.raises(DataError, match=r"mismatched: .*stored \(3, 3\), model \(16, 16\)"):
        loaded(copy, tmp_path)


def test_a_classifier_checkpoint_brings_its_own_head(tmp_path):
    folder = tmp_path / "classifier"
    save_vit(folder, classes=7)
    teacher = loaded(folder, tmp_path)
    stored = load_file(folder / "model.safetensors")
    torch.testing.assert_close(teacher.head.weight, stored["classifier.weight"])
    assert teacher.embed(torch.zeros(2, 3, 24, 24)).shape == (2, 16)


def test_a_folder_is_hashed_once_and_again_where_it_changed(copy, monkeypatch):
    from clipkd.core import files

    hashed = []
    digest = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or digest(path))
    first = teachers.get(str(copy))
    assert teachers.get(str(copy)) == first
    assert len(hashed) == len(teachers.FILES)
    spoil(copy, lambda weights: weights[query_name(weights)].add_(1))
    assert teachers.get(str(copy)).identity() != first.identity()
