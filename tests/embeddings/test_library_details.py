"""What a checkpoint of timm or torchvision leaves to its library: arguments, filter, classifier."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clipkd.core.errors import InputError
from clipkd.core.files import read_json
from clipkd.core.timm import timm
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import extract, library_checkpoint, prepare, train_cnn, zero_shot
from clipkd.embeddings.pretrained_cfg import processor_of
from clipkd.embeddings.teacher import load
from clipkd.embeddings.torchvision_encoder import built
from clipkd.plugins import datasets, teachers
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout

CPU = torch.device("cpu")
CFG = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}


def taken(name: str, data: Path) -> Any:
    """Load a teacher the way a run does: fetched, then opened."""
    spec, layout = teachers.get(name), Layout(data)
    prepare.teacher(spec, layout, CPU)
    return load(spec, layout.teacher(spec), CPU)


def saved(model: torch.nn.Module, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def test_safetensors_are_sorted_by_name_and_tell_the_classes_all_the_same(tmp_path: Path) -> None:
    path = saved(built("mobilenet_v3_small", num_classes=5), tmp_path / "weights.safetensors")
    assert taken(f"torchvision:mobilenet_v3_small?pretrained={path}", tmp_path).head.out_features == 5


@pytest.mark.parametrize(("name", "classifier"), [("regnet_y_400mf", "fc"), ("squeezenet1_1", "classifier.1")])
def test_the_classifier_of_a_model_is_known_by_name(name: str, classifier: str) -> None:
    assert library_checkpoint.classifier_of(name)[0] == classifier


def test_published_weights_are_given_the_input_that_they_were_trained_on(tmp_path: Path) -> None:
    """torchvision's GoogLeNet and Inception v3 bring their input to another range where it loads their weights."""
    torch.manual_seed(0)
    path = saved(built("googlenet", num_classes=7, transform_input=True), tmp_path / "weights.safetensors")
    published = taken(f"torchvision:googlenet.IMAGENET1K_V1?pretrained={path}", tmp_path / "published")
    assert published.model.transform_input
    own = taken(f"torchvision:googlenet?pretrained={path}", tmp_path / "own")
    assert not own.model.transform_input
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (published.mean, published.std))
    torch.testing.assert_close(published.embed((pixels - mean) / std), own.embed((pixels - 0.5) / 0.5))
    assert published.spec.identity()["protocol"] == 2


def test_a_vit_is_built_for_the_size_of_its_weights(tmp_path: Path) -> None:
    path = saved(torch.nn.Linear(1, 1), tmp_path / "weights.safetensors")
    for tag, side in (("IMAGENET1K_SWAG_E2E_V1", 384), ("IMAGENET1K_V1", 224)):
        spec: Any = teachers.get(f"torchvision:vit_b_16.{tag}?pretrained={path}")
        config = library_checkpoint.torchvision_config(spec, {})
        assert (config.get("image_size", 224), config["num_classes"]) == (side, 1000)
        with torch.device("meta"):
            model = built("vit_b_16", **{name: config[name] for name in ("image_size",) if name in config})
        assert model.encoder.pos_embedding.shape[1] == 1 + (side // 16) ** 2


@pytest.mark.parametrize("said", [{}, {"interpolation": None}])
def test_a_filter_that_a_checkpoint_does_not_name_is_timms(said: dict[str, None]) -> None:
    from timm.data import resolve_data_config

    found = processor_of(TeacherSpec("any", "any"), {"pretrained_cfg": CFG | said})
    assert found.filter == resolve_data_config(pretrained_cfg=CFG | said)["interpolation"] == "bicubic"


def timm_folder(folder: Path, model: str, **arguments: Any) -> Path:
    """Save a random model of timm for the digits in a folder, as timm does."""
    folder.mkdir()
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 1} | arguments
    saved(timm.create_model(model, num_classes=10, **sizes), folder / "model.safetensors")
    names = [str(number) for number in range(10)]
    config = {"architecture": model, "num_classes": 10, "label_names": names, "model_args": sizes}
    cfg = CFG | {"interpolation": "bilinear", "classifier": timm.get_pretrained_cfg(model).classifier}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}))
    return folder


def test_a_folder_that_names_no_filter_is_another_teacher_than_before(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "vit", "vit_tiny_patch16_224")
    assert "interpolation" not in teachers.get(str(folder)).identity()
    config = read_json(folder / "config.json")
    del config["pretrained_cfg"]["interpolation"]
    (folder / "config.json").write_text(json.dumps(config))
    assert teachers.get(str(folder)).identity()["interpolation"] == "bicubic"


def test_a_folder_is_called_by_its_name_wherever_one_stands(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(timm_folder(tmp_path / "vit", "vit_tiny_patch16_224"))
    assert teachers.get("./").title == "vit"


def test_a_classifier_of_two_layers_is_refused_before_images_are_embedded(
    digits_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/datasets").symlink_to(digits_folder / "datasets")
    folder, layout = timm_folder(tmp_path / "deit", "deit_tiny_distilled_patch16_224"), Layout(tmp_path / "data")
    monkeypatch.setattr(extract, "extract", lambda *_: pytest.fail("it ran"))
    store = layout.full_embeddings(Cell("corrected", "digits", "tiny-32", f"{folder}?head=own", "vanilla", 0))
    with pytest.raises(InputError, match=r"can't score digits: it is not a linear layer .*; leave `head` out"):
        prepare.embeddings(store, layout, None, CPU)


def test_a_model_whose_classifier_is_of_no_use_is_not_trained(
    digits_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    digits = open_dataset(datasets.get("digits"), Layout(digits_folder).dataset(datasets.get("digits")))
    monkeypatch.setattr(train_cnn, "fit", lambda *_: pytest.fail("it was trained"))
    spec: Any = teachers.get("trained:deit_tiny_distilled_patch16_224@32?on=digits")
    with pytest.raises(InputError, match=r"can't score digits: it is not a linear layer .*; take another model"):
        train_cnn.train_cnn(spec, digits, tmp_path / "teacher", CPU)


def test_another_output_leaves_a_known_teachers_classifier_behind() -> None:
    assert teachers.get("digits-cnn").brings_head("digits")
    assert teachers.get("digits-cnn:logits").brings_head("digits")
    for name in ("digits-cnn:mean", "digits-cnn:cls"):
        assert not teachers.get(name).brings_head("digits")
    assert teachers.get("digits-cnn:mean?head=own").brings_head("digits"), "asked for"


def test_a_projection_in_bfloat16_is_read(tmp_path: Path, monkeypatch: Any) -> None:
    values = torch.tensor([[1.0, 0.5], [0.25, 2.0]], dtype=torch.bfloat16)
    save_file({"visual_projection.weight": values}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    monkeypatch.setattr(zero_shot, "open_artifact", lambda *_: SimpleNamespace(file=lambda name: tmp_path / name))
    cell: Any = SimpleNamespace(teacher_spec=SimpleNamespace(identity=dict))
    layout: Any = SimpleNamespace(teacher=lambda _: tmp_path)
    found = zero_shot.visual_projection(cell, layout)
    assert found is not None
    assert found.tolist() == [[1.0, 0.5], [0.25, 2.0]]


@pytest.mark.parametrize("name", ["mnasnet0_5", "densenet121"])
def test_published_files_of_torchvision_have_older_names(name: str, tmp_path: Path) -> None:
    """Those of DenseNet: `norm.1` for `norm1`, and no count of batches; of MNASNet: no version beside the weights."""
    model = built(name, num_classes=3).eval()
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value for key, value in model.state_dict().items()}
    counted = {key for key in old if key.endswith("num_batches_tracked")}
    torch.save({key: value for key, value in old.items() if key not in counted}, tmp_path / "weights.pth")
    teacher = taken(f"torchvision:{name}.IMAGENET1K_V1?pretrained={tmp_path / 'weights.pth'}:logits", tmp_path)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(teacher.embed(images), model(images))


def test_published_vits_of_torchvision_have_older_names() -> None:
    old = {"encoder.layers.encoder_layer_0.mlp.linear_1.bias": torch.ones(1)}
    old |= {"encoder.layers.encoder_layer_0.mlp.linear_2.bias": torch.ones(1)}
    with torch.device("meta"):
        names = built("vit_b_32").state_dict()
    assert set(library_checkpoint.renamed(old)) <= set(names)
