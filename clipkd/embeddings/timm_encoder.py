"""Encoders of timm: any of its models, built from a config.json of timm and loaded strictly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipkd.core.artifacts import Artifact
from clipkd.core.errors import InputError, first_line
from clipkd.core.files import read_json
from clipkd.core.timm_weights import classifiers, fill
from clipkd.embeddings.acceleration import accelerate_linear
from clipkd.embeddings.encoder import Encoder, check_output, on_device, unchanged, width_of
from clipkd.embeddings.library_models import check_timm
from clipkd.embeddings.pretrained_cfg import processor_of
from clipkd.embeddings.processor import Processor
from clipkd.plugins.teachers import Output, TeacherSpec

OUTPUTS: tuple[Output, ...] = ("pooled", "cls", "mean", "logits")
NOT_FOLLOWED = {
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable"),
    *("exportable", "no_jit", "features_only"),
}
"""Arguments of timm.create_model that a config.json may not give: they load other files, or make another model."""
CLOSE = 0.01
"""Of the largest class score: more than rounding, TF32's too, and less than what a layer does that was left out."""
LARGEST = 1 << 16
"""The largest number among a model's arguments: it is built before its weights are compared with it."""


def encoder(spec: TeacherSpec, artifact: Artifact, device: torch.device, is_float32: bool) -> Encoder:
    """Load the model of a checkpoint.

    Raises:
        DataError: a weight is missing, unexpected or mis-shaped.
        InputError: timm has no such model, or it has not what is to be taken of it.
    """
    config = read_json(artifact.file("config.json"))
    image_processor = settings(spec, config)
    weights = artifact.file("model.safetensors")
    stored = load_file(weights)
    model: Any = build(spec, config)
    fill(model, stored, weights, config["architecture"])
    artifact.still(weights)
    model = on_device(model, spec, device)
    side = image_processor.image_size
    with torch.inference_mode():
        features = features_of(spec, model, torch.zeros(1, 3, side, side, device=device))
    if is_float32:
        accelerate_linear(model, spec.title, lambda: model(torch.zeros(1, 3, side, side, device=device)))
    is_convolutional = features.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NCHW"
    if is_convolutional:
        model = model.to(memory_format=torch.channels_last)
    embed = output_of(spec, model, features)

    def run(inputs: Tensor) -> Tensor:
        return embed(inputs.contiguous(memory_format=torch.channels_last) if is_convolutional else inputs)

    width = width_of(spec, run, side, device)
    return Encoder(model, run, width, image_processor, head_of(spec, model, run, side, device))


def settings(spec: TeacherSpec, config: dict[str, Any]) -> Processor:
    """Return the preprocessing of a config.json, before its weights are needed.

    Raises:
        InputError: timm has no such model, or it is asked for something that is not supported.
    """
    check_output(spec, OUTPUTS, "a timm model")
    known_name(spec, config)
    if spec.output == "logits" and config.get("num_classes") == 0:
        raise without_classifier(spec)
    arguments_of(spec, config)
    return processor_of(spec, config)


def build(spec: TeacherSpec, config: dict[str, Any]) -> nn.Module:
    """Return the timm model of a config.json, fresh weights."""
    from clipkd.core.timm import timm

    name = known_name(spec, config)
    arguments = arguments_of(spec, config)
    cfg = {key: value for key, value in config["pretrained_cfg"].items() if key not in ("url", "file", "hf_hub_id")}
    classes = config.get("num_classes", cfg.get("num_classes", 1000))
    try:
        return timm.create_model(
            name, pretrained=False, pretrained_cfg=cfg | {"architecture": name}, num_classes=int(classes), **arguments
        )
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"teacher '{spec.name}': timm {timm.__version__} can't build {name}: {first_line(error)}"
        ) from None


def known_name(spec: TeacherSpec, config: dict[str, Any]) -> str:
    """Return the architecture that a config.json names; InputError where this timm has no such model."""
    name = str(config["architecture"]).split(".")[0]
    check_timm(spec, name)
    return name


def arguments_of(spec: TeacherSpec, config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a config.json gives for its model: plain values of a reasonable size."""
    given = config.get("model_args") or {}
    if not isinstance(given, dict):
        raise InputError(f"teacher '{spec.name}' is refused: model_args in its config.json is {given!r}, not a map")
    arguments = {key: value for key, value in given.items() if key != "num_classes"}
    for key, value in arguments.items():
        where = f"teacher '{spec.name}' is refused: model_args.{key} in its config.json"
        if key in NOT_FOLLOWED:
            raise InputError(f"{where} is not an argument of an architecture")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict) or (isinstance(one, int | float) and not -LARGEST <= one <= LARGEST):
                raise InputError(f"{where} is {value!r}; supported are words, and numbers up to {LARGEST:,}")
    return arguments


def features_of(spec: TeacherSpec, model: Any, images: Tensor) -> Tensor:
    """Return a model's last features: tokens [B, T, D], or a map [B, D, H, W] ([B, H, W, D] where it says so)."""
    try:
        features = model.forward_features(images)
    except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"teacher '{spec.name}': the model does not take images of {images.shape[-1]} pixels ({first_line(error)})"
        ) from None
    if not isinstance(features, Tensor):
        raise InputError(f"teacher '{spec.name}': the model's features are not one tensor, which is not supported")
    return features


def output_of(spec: TeacherSpec, model: Any, features: Tensor) -> Any:
    """Return the function from images to the vectors that are taken; InputError where the model has none of them."""
    before = int(getattr(model, "num_prefix_tokens", 0))
    if spec.output == "pooled":
        return lambda images: model.forward_head(model.forward_features(images), pre_logits=True)
    if spec.output == "logits":
        if not model.num_classes:
            raise without_classifier(spec)
        return model
    if spec.output == "cls":
        if getattr(model, "cls_token", None) is None or features.ndim != 3 or before < 1:
            raise InputError(f"teacher '{spec.name}' has no class token: end its name in :pooled or :mean")
        return lambda images: model.forward_features(images)[:, 0]
    if features.ndim == 3:
        return lambda images: model.forward_features(images)[:, before:].mean(dim=1)
    places = (1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else (2, 3)
    return lambda images: model.forward_features(images).mean(dim=places)


def without_classifier(spec: TeacherSpec) -> InputError:
    return InputError(f"teacher '{spec.name}': the checkpoint has no classifier; end its name in :pooled")


@torch.inference_mode()
def head_of(
    spec: TeacherSpec, model: Any, run: Callable[[Tensor], Tensor], side: int, device: torch.device
) -> nn.Linear | None:
    """Return the model's classifier, where it is one linear layer on the vectors that `run` takes of images.

    Some models have another layer between the two, such as a normalisation: what the classifier makes of the vectors of
    an image decides.
    """
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    vectors = run(images)
    if spec.output == "logits":
        return unchanged(vectors.shape[1])
    layer = model.get_classifier() if spec.output == "pooled" and len(classifiers(model.pretrained_cfg)) == 1 else None
    if not isinstance(layer, nn.Linear) or layer.in_features != vectors.shape[1]:
        return None
    expected = model(images)
    is_same = (layer(vectors) - expected).abs().max() <= CLOSE * expected.abs().max()
    return layer if is_same else None
