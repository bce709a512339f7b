"""Strict loading: transformers would fill what is missing with random numbers; here it is an error."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipkd.core.errors import ClipkdError, DataError
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(copy, tmp_path, value):
    names = []

    def poison(weights):
        names.append(query_name(weights))
        weights[names[0]].fill_(value)

    spoil(copy, poison)
    with pytest.raises(DataError) as error:
        loaded(copy, tmp_path)
    assert names[0] in str(error.value)


def test_an_unknown_architecture_is_refused(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ClipkdError, match=r"'bert'; supported vision encoders: aimv2, .*swin, vit"):
        loaded(copy, tmp_path)


def test_an_image_processor_without_a_mean_is_refused(copy, tmp_path):
    (copy / "preprocessor_config.json").write_text(json.dumps({"size": 24}))
    with pytest.raises(DataError, match="image_mean is not there, not three numbers"):
        loaded(copy, tmp_path)


def test_a_damaged_stored_checkpoint_is_found(vit_folder, tmp_path):
    loaded(vit_folder, tmp_path)
    spec = teachers.get(str(vit_folder))
    path = Layout(tmp_path / "data").teacher(spec) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        loaded(vit_folder, tmp_path)


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
