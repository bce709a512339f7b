"""Row T02: each weight that an encoder needs is in the file, and each that was loaded is the file's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clipkd.core.errors import DataError
from clipkd.core.files import read_json
from clipkd.embeddings import weights
from clipkd.embeddings.teacher_checkpoint import fetch
from clipkd.embeddings.transformers_encoder import family_of, load_model
from clipkd.plugins import teachers
from tests import checkpoints
from tests.faults.checks import fault, nothing, replaced

WEIGHTS = "model.safetensors"
Forms = dict[str, tuple[Path, nn.Module]]
NAMINGS = ("ViTModel", "DeiTForImageClassification", "Dinov2Backbone", "CLIPModel", "CLIPVisionModel", "SiglipModel")
"""Forms that differ in how their weights are called."""


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Forms:
    """A checkpoint of each form, and the model that was saved."""
    root = tmp_path_factory.mktemp("forms")
    return {kind: (root / kind, checkpoints.save_form(kind, root / kind)) for kind in NAMINGS}


def by_first_name_alone(path: Path, model: nn.Module, unused: tuple[str, ...] = ()) -> None:
    """The mutant, and what was there before: names as they are in the file, without the level of the base model."""
    stored = load_file(path)
    for name, tensor in model.state_dict().items():
        mine = stored.get(name.removeprefix(f"{model.base_model_prefix}."))
        if mine is not None and not torch.equal(tensor, mine):
            raise weights.different(path, name)


def by_content_alone(path: Path, model: nn.Module, unused: tuple[str, ...] = ()) -> None:
    """The mutant: whatever is anywhere in the file is right."""
    stored = {weights.content(tensor) for tensor in load_file(path).values()}
    for name, tensor in model.state_dict().items():
        if weights.content(tensor) not in stored:
            raise weights.different(path, name)


def first_only(path: Path, model: nn.Module, unused: tuple[str, ...] = ()) -> None:
    """The mutant: the first weight is looked at."""
    name, tensor = next(iter(model.state_dict().items()))
    if weights.content(tensor) not in {weights.content(stored) for stored in load_file(path).values()}:
        raise weights.different(path, name)


@fault(
    "T02",
    **{
        "the-comparison": replaced("clipkd.embeddings.weights.compare", nothing),
        "the-later-weights": replaced("clipkd.embeddings.weights.compare", first_only),
        "the-new-names": replaced("clipkd.embeddings.weights.compare", by_first_name_alone),
        "the-names": replaced("clipkd.embeddings.weights.compare", by_content_alone),
    },
)
def test_every_loaded_weight_of_every_form_is_the_files(forms: Forms, tmp_path: Path) -> None:
    """Each weight in turn is another number; or has changed places with another of its shape, as in a wrong rename."""
    for kind, (folder, _) in forms.items():
        model, _ = loaded_from(folder, tmp_path / kind)
        path, loaded = folder / WEIGHTS, model.state_dict()
        weights.compare(path, model)
        for name, tensor in loaded.items():
            kept = tensor.clone()
            tensor.add_(2**-12)
            demand_refusal(path, model, f"{kind}: {name}")
            tensor.copy_(kept)
            other = next((other for key, other in loaded.items() if key > name and other.shape == tensor.shape), None)
            if other is not None:
                swap(tensor, other)
                demand_refusal(path, model, f"{kind}: {name} and another of its shape")
                swap(tensor, other)


def swap(one: Tensor, other: Tensor) -> None:
    kept = one.clone()
    one.copy_(other)
    other.copy_(kept)


def demand_refusal(path: Path, model: nn.Module, what: str) -> None:
    message = ""
    try:
        weights.compare(path, model)
    except DataError as error:
        message = str(error)
    assert "was loaded as other numbers than the file holds" in message, what


@fault("T02", **{"the-keys": replaced("clipkd.embeddings.transformers_encoder.complain", nothing)})
def test_every_weight_that_a_form_lacks_is_missed(forms: Forms, tmp_path: Path) -> None:
    """A file that holds one weight: all others of the encoder are named or counted."""
    for kind, (folder, model) in forms.items():
        encoder = getattr(model, checkpoints.FORMS[kind]) if checkpoints.FORMS[kind] else model
        free = {"embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"}  # nothing taken depends on them
        needed = {name for name in encoder.state_dict() if name not in free}
        stored = load_file(folder / WEIGHTS)
        kept = next(name for name in stored if "position_embedding" in name and "text_model" not in name)
        copy = shutil.copytree(folder, tmp_path / kind)
        save_file({kept: stored[kept]}, copy / WEIGHTS, metadata={"format": "pt"})
        with pytest.raises(DataError, match=f"config.json, {len(needed) - 1} weights:"):
            loaded_from(copy, tmp_path / f"store-{kind}")


def loaded_from(folder: Path, place: Path) -> tuple[nn.Module, nn.Linear | None]:
    """Return what is loaded of a checkpoint for the mean of its patches."""
    spec = teachers.get(f"{folder}:mean")
    artifact = fetch(spec, place)
    return load_model(artifact, family_of(spec, read_json(artifact.file("config.json"))), spec)
