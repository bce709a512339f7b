"""Encoders of torchvision: its classification models, loaded strictly."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipkd.core.artifacts import Artifact
from clipkd.core.errors import InputError
from clipkd.core.files import read_json
from clipkd.core.timm_weights import load_exactly
from clipkd.embeddings.encoder import Encoder, check_output, on_device, unchanged, width_of
from clipkd.embeddings.pretrained_cfg import processor_of
from clipkd.plugins.teachers import Output, TeacherSpec
from clipkd.plugins.teachers._library import TRANSFORMED

OUTPUTS: tuple[Output, ...] = ("pooled", "logits")
ARGUMENTS = ("image_size", "transform_input")
"""What a config.json may give beside the number of classes, for torchvision's function that builds the model."""


def encoder(spec: TeacherSpec, artifact: Artifact, device: torch.device, is_float32: bool) -> Encoder:
    """Load the model of a checkpoint that `library_checkpoint` wrote; raises as `timm_encoder.encoder`."""
    check_output(spec, OUTPUTS, "a torchvision model")
    config = read_json(artifact.file("config.json"))
    image_processor = processor_of(spec, config)
    weights = artifact.file("model.safetensors")
    arguments = {name: config[name] for name in ARGUMENTS if name in config}
    model = built(config["torchvision"], num_classes=config["num_classes"], **arguments)
    load_exactly(model, load_file(weights), weights, f"torchvision's {config['torchvision']}")
    artifact.still(weights)
    model = on_device(model, spec, device)
    layers = layers_of(model)
    last = next(reversed(layers.values()))
    if isinstance(next(iter(layers.values())), nn.Conv2d):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(inputs: Tensor) -> Tensor:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return model(inputs) if spec.output == "logits" else seen_by(last, model, inputs)

    if spec.output == "pooled" and not isinstance(last, nn.Linear):
        raise InputError(f"teacher '{spec.name}': its classifier is not a linear layer; end its name in :logits")
    width = width_of(spec, run, image_processor.image_size, device)
    return Encoder(model, run, width, image_processor, last if spec.output == "pooled" else unchanged(width))  # type: ignore[arg-type]


def built(name: str, **arguments: Any) -> Any:
    """Return a model of torchvision whose weights are to be loaded."""
    from clipkd.core.vision import torchvision

    fast = {"init_weights": False} if name in TRANSFORMED else {}  # theirs takes minutes
    return torchvision.models.get_model(name, weights=None, **fast, **arguments)


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return name -> layer of a model's linear layers and convolutions; the last one is its classifier."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}


def seen_by(layer: nn.Module, model: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a layer of a model is given [B, D] when the model is given `inputs`."""
    given: list[Any] = []
    handle = layer.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    try:
        model(inputs)
    finally:
        handle.remove()
    return given[-1]
