"""Encoders of transformers, timm and torchvision against the libraries themselves, on the same PNG files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipkd.core.errors import ClipkdError, DataError, InputError
from clipkd.data.pixels import planes, unit
from clipkd.embeddings import prepare
from clipkd.embeddings.own_head import own_head_of
from clipkd.embeddings.teacher import load
from clipkd.plugins import teachers
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec.layout import Layout
from tests import checkpoints

import timm  # isort: skip
import transformers  # isort: skip
from timm.data import create_transform, resolve_model_data_config  # isort: skip

CPU = torch.device("cpu")
SIDE = 32
VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": SIDE, "patch_size": 8,
}  # fmt: skip
MAPS = {"hidden_sizes": [4, 8, 12, 16], "depths": [1, 1, 1, 1]}
SQUARE = {"size": {"height": SIDE, "width": SIDE}, "resample": 3}
CROPPED = {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
TOWERS = {"vision_config": VIT, "text_config": dict(checkpoints.TEXT)}
FAMILIES = {
    "DINOv3ViT": (VIT | {"num_register_tokens": 3}, "DINOv3ViTImageProcessor", SQUARE, "cls mean pooler", 4),
    "DINOv3ConvNext": (MAPS, "DINOv3ViTImageProcessor", SQUARE, "cls mean pooler", 1),
    "Dinov2WithRegisters": (checkpoints.SIZES | {"image_size": SIDE, "num_register_tokens": 3},
                            "BitImageProcessor", CROPPED, "cls mean pooler", 4),
    "SiglipVision": (VIT, "SiglipImageProcessor", SQUARE, "mean pooler", 0),
    "Aimv2Vision": (VIT, "CLIPImageProcessor", CROPPED, "mean pooler", 0),
    "ConvNext": (MAPS, "ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}, "resample": 3}, "mean pooler", 0),
    "ConvNextV2": (MAPS, "ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}, "resample": 2}, "mean pooler", 0),
    "ResNet": (MAPS | {"embedding_size": 4, "layer_type": "basic"}, "ConvNextImageProcessor",
               {"size": {"shortest_edge": SIDE}, "crop_pct": 0.8, "resample": 3}, "mean pooler", 0),
    "Swin": ({"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
              "window_size": 4}, "ViTImageProcessor", SQUARE, "mean pooler", 0),
    "Beit": (VIT, "BeitImageProcessor", SQUARE, "cls mean pooler", 1),
    "ViTMAE": (VIT | {"decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1},
               "ViTImageProcessor", SQUARE, "cls mean", 1),
    "MetaClip2Vision": (VIT, "CLIPImageProcessor", CROPPED, "cls mean pooler", 1),
}  # fmt: skip
"""Family -> its config, its image processor, what is taken of it, and the tokens before the patches."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def photos(root):
    """PNG files of several shapes, with structure."""
    paths = []
    for number, (height, width) in enumerate([(40, 40), (53, 38), (36, 61)]):
        coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        paths.append(root / f"{number}.png")
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def spread(model):
    """Give a model weights that tell images apart; fresh ones are tiny."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.25)
    return model.eval()


def saved(family: str, root: Path) -> tuple[Path, torch.nn.Module]:
    """Save a random checkpoint of a family and its image processor; return its folder and the model."""
    folder, (config, kind, rules, *_) = root / family, FAMILIES[family]
    checkpoints.quiet()
    model = spread(getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**config)))
    model.save_pretrained(folder)
    normal = {"image_mean": checkpoints.MEAN, "image_std": checkpoints.STD}
    getattr(transformers, kind)(**rules | normal).save_pretrained(folder)
    return folder, model


def taken(name, layout):
    """Load a teacher the way a run does: fetched, then opened."""
    spec = teachers.get(name)
    prepare.teacher(spec, layout, CPU)
    return load(spec, layout.teacher(spec), CPU)


def shown(teacher, path):
    """Return what a teacher says of an image file, presented as its checkpoint wants it."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return teacher.embed(teacher.present(unit(planes(pixels[None])), None, None))[0]


def is_same(found, expected):
    """Ours resizes numbers, a processor 8-bit images: a rounding apart."""
    return found.shape == expected.shape and float(torch.cosine_similarity(found, expected, dim=0)) > 0.9995


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_what_transformers_says(family, root, photos, tmp_path):
    folder, model = saved(family, root)
    outputs, tokens = FAMILIES[family][3].split(), FAMILIES[family][4]
    plain = transformers.AutoImageProcessor.from_pretrained(folder)
    loaded = {output: taken(f"{folder}:{output}", Layout(tmp_path)) for output in outputs}
    more = {}
    if family == "ViTMAE":  # the whole image, in its order
        model.config.mask_ratio = 0.0
        more = {"noise": torch.arange(16.0)[None]}
    for path in photos:
        pixels = plain(Image.open(path), return_tensors="pt")["pixel_values"].float()
        with torch.no_grad():
            said = model(pixel_values=pixels, **more)
        hidden = said.last_hidden_state[0]
        patches = hidden.flatten(1).T if hidden.ndim == 3 else hidden[tokens:]
        expected = {"cls": hidden[0], "mean": patches.mean(dim=0)}
        if "pooler" in outputs:
            expected["pooler"] = said.pooler_output.flatten()
        for output in outputs:
            assert is_same(shown(loaded[output], path), expected[output]), (output, path.name)
        # The control: another output is another vector, except where both are the mean of one map.
        assert family == "DINOv3ConvNext" or "cls" not in outputs or not is_same(expected["mean"], expected["cls"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_unexpected_or_misshaped_weight_is_named(family, root, tmp_path):
    folder, _ = saved(family, root / "strict")
    stored = load_file(folder / "model.safetensors")
    name = max((name for name in stored if stored[name].ndim >= 2 and "mask_token" not in name), key=str)
    changed = {
        "missing": {other: tensor for other, tensor in stored.items() if other != name},
        "unexpected": stored | {name + "_more": torch.ones(2)},
        "mismatched": stored | {name: torch.ones(3, 5)},
    }
    for words, weights in changed.items():
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(DataError, match=rf"{words}: .*{name.split('.')[-1]}"):
            taken(f"{folder}:mean", Layout(tmp_path / words))
        assert not any((tmp_path / words / "teachers").glob("*/*/manifest.json"))  # nothing was fetched


def timm_file(name: str, folder: Path, **options) -> tuple[Path, torch.nn.Module]:
    """Save the weights of a random timm model; return the file and the model."""
    model = spread(timm.create_model(name, **options))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_var.fill_(4.0)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return path, model


TIMM = {
    "test_efficientnet": "pooled mean logits",
    "test_resnet": "pooled mean logits",
    "test_vit": "pooled cls mean logits",
    "test_convnext": "pooled mean logits",
    "swin_s3_tiny_224": "pooled mean logits",
}


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_model_says_what_timm_says(name, root, photos, tmp_path):
    small = {"embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2), "window_size": (7, 7)} if "swin" in name else {}
    path, model = timm_file(name, tmp_path, num_classes=7, **small)
    where = f"timm:{name}?pretrained={path}"
    if small:  # another shape than the name's: in timm's own form of a folder
        timm.models.save_for_hf(model, tmp_path / "folder", model_args=small, safe_serialization=True)
        where = str(tmp_path / "folder")
    plain = create_transform(**resolve_model_data_config(model), is_training=False)
    loaded = {output: taken(f"{where}:{output}", Layout(tmp_path / "data")) for output in TIMM[name].split()}
    assert loaded["pooled"].width == model.num_features
    assert loaded["pooled"].head.out_features == 7
    for photo in photos:
        pixels = plain(Image.open(photo).convert("RGB"))[None]
        with torch.no_grad():
            features = model.forward_features(pixels)
            tokens = features[0, model.num_prefix_tokens :] if features.ndim == 3 else features[0].flatten(1).T
            if getattr(model, "output_fmt", "") == "NHWC":
                tokens = features[0].flatten(0, 1)
            expected = {
                "pooled": model.forward_head(features, pre_logits=True)[0],
                "cls": features[0, 0],
                "mean": tokens.mean(dim=0),
                "logits": model(pixels)[0],
            }
        for output, teacher in loaded.items():
            assert is_same(shown(teacher, photo), expected[output]), (output, photo.name)
    assert teachers.get(where).output == "pooled"
    # Its own classifier of the pooled vectors gives its scores; scores are their own.
    logits = shown(loaded["logits"], photos[0])
    torch.testing.assert_close(loaded["pooled"].head(shown(loaded["pooled"], photos[0])), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loaded["logits"].head(logits), logits)


def test_the_classes_of_a_timm_model_are_known_by_name(tmp_path):
    named, model = tmp_path / "named", timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(model, named, model_config={"label_names": ["owl", "tit", "crow"]}, safe_serialization=True)
    path, _ = timm_file("test_resnet", tmp_path)
    for where, names in {
        str(named): ("owl", "tit", "crow"),
        f"timm:test_resnet?pretrained={path}": None,  # 1,000 classes of nobody knows what
        f"timm:test_resnet.r160_in1k?pretrained={path}": ("tench", "goldfish"),
    }.items():
        spec, layout = teachers.get(where), Layout(tmp_path / "data")
        prepare.teacher(spec, layout, CPU)
        head = own_head_of(layout.teacher(spec), spec)
        assert head.is_linear
        assert (
            head.names is None
            if names is None
            else [name.split(",")[0] for name in head.names][: len(names)] == [*names]
        )


def test_a_timm_model_that_a_file_does_not_hold_is_refused(tmp_path):
    path, _ = timm_file("test_resnet", tmp_path)
    stored = load_file(path)
    for words, weights in {
        r"missing: conv1\.0?": {name: tensor for name, tensor in stored.items() if not name.startswith("conv1")},
        "unknown: surprise": stored | {"surprise": torch.ones(2)},
        r"shape of bn1\.weight: \(3,\), the model has": stored | {"bn1.weight": torch.ones(3)},
    }.items():
        save_file(weights, path)
        with pytest.raises(DataError, match=words):
            taken(f"timm:test_resnet?pretrained={path}", Layout(tmp_path / "data"))
    with pytest.raises(InputError, match=r"has no model 'test_resnt'; did you mean 'test_resnet'"):
        taken(f"timm:test_resnt?pretrained={path}", Layout(tmp_path / "data"))
    assert not list((tmp_path / "data").glob("teachers/*/*/manifest.json"))


def test_pickled_weights_are_opened_for_tensors_only(tmp_path):
    path, model = timm_file("test_vit", tmp_path)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    pixels = torch.randn(1, 3, 160, 160)
    safe, pickled = (taken(f"timm:test_vit?pretrained={file}", Layout(tmp_path / "data"))
                     for file in (path, tmp_path / "weights.pth"))  # fmt: skip
    torch.testing.assert_close(pickled.embed(pixels), safe.embed(pixels))
    assert pickled.spec.identity() != safe.spec.identity()
    torch.save({"weight": torch.ones(2), "model": Path("a pickled object")}, tmp_path / "evil.pth")
    with pytest.raises(DataError, match="holds more than tensors"):
        taken(f"timm:test_vit?pretrained={tmp_path / 'evil.pth'}", Layout(tmp_path / "data"))


def test_a_torchvision_model_says_what_torchvision_says(photos, tmp_path):
    from clipkd.core.vision import torchvision

    model = spread(torchvision.models.mobilenet_v3_small(num_classes=5, width_mult=1.0))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    where = f"torchvision:mobilenet_v3_small?pretrained={tmp_path / 'weights.pth'}"
    pooled, logits = (taken(f"{where}{output}", Layout(tmp_path / "data")) for output in ("", ":logits"))
    assert pooled.head.out_features == 5
    for photo in photos:
        pixels = weights.transforms()(Image.open(photo).convert("RGB"))[None]
        with torch.no_grad():
            expected = model.classifier[:3](model.avgpool(model.features(pixels)).flatten(1))[0]
            assert is_same(shown(logits, photo), model(pixels)[0])
        assert is_same(shown(pooled, photo), expected)
    with pytest.raises(InputError, match=r"known tags: IMAGENET1K_V1, IMAGENET1K_V2"):
        taken(f"torchvision:resnet50?pretrained={tmp_path / 'weights.pth'}", Layout(tmp_path / "data"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnet18", "write timm:MODEL"),
        ("timm:resnet18?pretrained=nowhere.safetensors", "nowhere.safetensors: No such file"),
        ("timm:resnet18?pretrained=weights.csv", "not a file of weights"),
        ("timm:resnet18?pretrained=timm/resnet18.a1_in1k@" + "a" * 40, "is named without 'timm:': 'timm/resnet18"),
        ("torchvision:resnet18?pretrained=x.pth:poled", "did you mean 'pooled'"),
    ],
)
def test_names_of_library_teachers_that_say_nothing_are_refused(name, words):
    with pytest.raises(InputError, match=words):
        teachers.get(name)


def test_what_a_library_does_not_give_is_refused_with_what_it_gives(tmp_path):
    path, _ = timm_file("test_resnet", tmp_path, num_classes=0)
    for output, words in {"cls": "no class token", "pooler": ":pooled, :cls", "logits": "has no classifier"}.items():
        with pytest.raises(InputError, match=words):
            taken(f"timm:test_resnet?pretrained={path}:{output}", Layout(tmp_path / "data"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_args": "x"}, "model_args in its config.json is 'x', not a map"),
        ({"crop_pct": "x"}, "crop_pct in its config.json is 'x', not a number above 0"),
        ({"crop_pct": 0}, "crop_pct in its config.json is 0,"),
        ({"std": [0, 0, 0]}, "a deviation is above 0"),
        ({"mean": [0.5, 0.5]}, r"mean in its config.json is \[0.5, 0.5\], not three numbers"),
        ({"input_size": "large"}, "input_size in its config.json"),
    ],
)
def test_timm_settings_that_make_no_sense_are_named(changes, words):
    from clipkd.embeddings.timm_encoder import settings

    arguments = {key: value for key, value in changes.items() if key == "model_args"}
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3} | {
        key: value for key, value in changes.items() if key != "model_args"
    }
    spec = TeacherSpec("any", "any", output="pooled")
    sound = {"architecture": "test_vit", "pretrained_cfg": cfg}
    with pytest.raises(ClipkdError, match=words):
        settings(spec, sound | arguments)


def test_arguments_that_build_no_model_are_named():
    from clipkd.embeddings.timm_encoder import build

    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "test_vit", "model_args": {"img_size": []}, "pretrained_cfg": cfg}
    with pytest.raises(InputError, match="can't build test_vit"):
        build(TeacherSpec("any", "any", output="pooled"), config)


@pytest.mark.parametrize("name", ["shvit_s1", "efficientvit_m0", "test_resnet"])
def test_a_classifier_behind_another_layer_is_not_one_of_the_vectors(name, tmp_path):
    """These have a batch normalisation between the two: their linear layer never saw such vectors."""
    path, _ = timm_file(name, tmp_path, num_classes=7)
    teacher = taken(f"timm:{name}?pretrained={path}", Layout(tmp_path / "data"))
    assert (teacher.head is None) == (name != "test_resnet")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resample": [3]}, r"resample: \[3\]"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 64, "crop_pct": 0}, "crop_pct is 0, not a number"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 64, "crop_pct": "x"}, "crop_pct is 'x'"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": 64, "crop_pct": 1.5}, "crop_pct is 1.5"),
    ],
)
def test_malformed_preprocessing_is_refused_in_words(changes, words, vit_folder, tmp_path):
    folder = Path(shutil.copytree(vit_folder, tmp_path / "vit"))
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises((InputError, DataError), match=words):
        prepare.teacher(teachers.get(str(folder)), Layout(tmp_path / "data"), CPU)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"resize_size": "a"}, "resize_size in its config.json is 'a', not a number of pixels"), ({"classifier": 5}, "")],
)
def test_malformed_settings_of_timm_end_in_no_traceback(changes, words, tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    timm.models.save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    path = tmp_path / "saved/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"pretrained_cfg": config["pretrained_cfg"] | changes}))
    spec = teachers.get(str(tmp_path / "saved"))
    if words:
        with pytest.raises(DataError, match=words):
            prepare.teacher(spec, Layout(tmp_path / "data"), CPU)
    else:
        prepare.teacher(spec, Layout(tmp_path / "data"), CPU)


def test_weights_of_8_bits_are_refused_in_words(vit_folder, tmp_path):
    folder = Path(shutil.copytree(vit_folder, tmp_path / "vit"))
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file(weights | {name: weights[name].to(torch.float8_e4m3fn)}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match="is in float8_e4m3fn, whose scales are kept elsewhere"):
        prepare.teacher(teachers.get(str(folder)), Layout(tmp_path / "data"), CPU)


def test_a_folder_with_pickled_weights_says_how_to_write_others(tmp_path):
    timm.models.save_for_hf(timm.create_model("test_resnet", num_classes=3), tmp_path, safe_serialization=False)
    with pytest.raises(InputError, match=r"pytorch_model.bin there is never opened.*safe_serialization=True"):
        teachers.get(str(tmp_path))
