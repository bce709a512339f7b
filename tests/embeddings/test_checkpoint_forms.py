"""Checkpoints in every form that transformers saves: whole models, towers alone, with heads, nested processors."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipkd.core.errors import DataError, InputError
from clipkd.embeddings import prepare, text
from clipkd.embeddings.teacher import load
from clipkd.plugins import teachers
from clipkd.spec.layout import Layout
from tests import checkpoints

import transformers  # isort: skip

CPU = torch.device("cpu")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """A checkpoint of each form, and the model that was saved."""
    root = tmp_path_factory.mktemp("forms")
    return {kind: (root / kind, checkpoints.save_form(kind, root / kind)) for kind in checkpoints.FORMS}


def outputs_of(kind):
    """Return what may be taken of a form."""
    if kind.startswith("Siglip"):
        return ["mean", "pooler"]
    has_pooler = kind in {"ViTModel", "DeiTModel"} or not kind.startswith(("ViT", "DeiT"))
    return ["cls", "mean", *(["pooler"] if has_pooler else [])]


def taken(name, layout):
    """Load a teacher the way a run does."""
    spec = teachers.get(name)
    prepare.teacher(spec, layout, CPU)
    return load(spec, layout.teacher(spec), CPU)


@pytest.mark.parametrize("kind", checkpoints.FORMS)
def test_each_form_gives_what_the_saved_model_gives(kind, forms, tmp_path):
    """The saved model itself, never loaded by anyone, is what is compared with."""
    folder, model = forms[kind]
    encoder = getattr(model, checkpoints.FORMS[kind]) if checkpoints.FORMS[kind] else model
    pixels = torch.randn(2, 3, checkpoints.SIDE, checkpoints.SIDE, generator=torch.Generator().manual_seed(1))
    before = {"Siglip": 0, "DeiT": 2, "Dinov2W": 5}
    tokens = next((count for name, count in before.items() if kind.startswith(name)), 1)
    for output in outputs_of(kind):
        found = taken(f"{folder}:{output}", Layout(tmp_path / output)).embed(pixels)
        with torch.no_grad():
            if kind.endswith("Backbone"):  # its own forward gives maps of features
                hidden = encoder.layernorm(encoder.encoder(encoder.embeddings(pixels)).last_hidden_state)
                pooler = hidden[:, 0]
            else:
                said = encoder(pixel_values=pixels)
                hidden, pooler = said.last_hidden_state, said.pooler_output
        expected = {"cls": hidden[:, 0], "mean": hidden[:, tokens:].mean(dim=1), "pooler": pooler}[output]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_text_tower_is_compared_with_its_file_too(tmp_path, monkeypatch):
    folder = checkpoints.save("clip", tmp_path / "clip")
    spec, layout = teachers.get(f"{folder}:text"), Layout(tmp_path / "data")
    prepare.teacher(spec, layout, CPU)
    text.load_text(spec, layout.teacher(spec), CPU)
    real = transformers.CLIPModel.from_pretrained

    def loosely(*arguments, **more):
        model, report = real(*arguments, **more)
        model.text_projection.weight.data.add_(2**-12)
        return model, report

    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", loosely)
    with pytest.raises(DataError, match=r"'text_projection\.weight' was loaded as other numbers"):
        text.load_text(spec, layout.teacher(spec), CPU)


def test_two_names_for_one_weight_are_refused(forms, tmp_path):
    folder = shutil.copytree(forms["ViTModel"][0], tmp_path / "twice")
    stored = load_file(folder / WEIGHTS)
    stored["vit.layernorm.weight"] = stored["layernorm.weight"] + 1
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"layernorm\.weight' .*the same weight|unexpected: .*layernorm"):
        taken(f"{folder}:mean", Layout(tmp_path / "data"))


def nested(folder):
    """Write a CLIP's processor and tokenizer as CLIPProcessor of transformers 5 does: into processor_config.json."""
    tokenizer = transformers.CLIPTokenizer(
        vocab={chr(number): number for number in range(3, 90)} | {"<|startoftext|>": 1, "<|endoftext|>": 2}, merges=[]
    )
    rules = checkpoints.PROCESSORS["clip"] | {"image_mean": checkpoints.MEAN, "image_std": checkpoints.STD}
    pil = transformers.CLIPImageProcessorPil(**rules)
    transformers.CLIPProcessor(image_processor=pil, tokenizer=tokenizer).save_pretrained(folder)


def test_an_image_processor_inside_processor_config_is_read(forms, tmp_path):
    plain, layout = forms["CLIPModel"][0], Layout(tmp_path / "data")
    folder = tmp_path / "nested"
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("preprocessor_config.json"))
    nested(folder)
    assert not (folder / "preprocessor_config.json").exists()
    found, expected = taken(f"{folder}:mean", layout), taken(f"{plain}:mean", layout)
    assert found.processor == expected.processor
    assert found.spec.identity() != expected.spec.identity()  # other files, other stores


def test_two_descriptions_of_the_processor_that_differ_are_refused(forms, tmp_path):
    folder = shutil.copytree(forms["CLIPModel"][0], tmp_path / "both")
    nested(folder)
    same = teachers.get(f"{folder}:mean").identity()
    assert set(same["folder"]) == set(teachers.FILES)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_std": [0.1, 0.2, 0.3]}))
    with pytest.raises(InputError, match=r"processor_config\.json have another image_std"):
        teachers.get(f"{folder}:mean")


def test_an_image_size_may_be_a_pair(forms, tmp_path):
    folder = shutil.copytree(forms["ViTModel"][0], tmp_path / "pair")
    for name, changes in (("config.json", {"image_size": [24, 24]}), ("preprocessor_config.json", {"size": [24, 24]})):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert taken(f"{folder}:mean", Layout(tmp_path / "data")).image_size == 24
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": [32, 32]}))
    with pytest.raises(DataError, match=r"config\.json says images of 24 pixels, preprocessor_config\.json 32"):
        taken(f"{folder}:mean", Layout(tmp_path / "data"))
