"""A model of timm or torchvision and a file of its weights, written as a checkpoint: config.json and safetensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipkd.core import lfs
from clipkd.core.errors import DataError, InputError, nearest
from clipkd.core.files import sha256, write_json
from clipkd.core.hub_client import WEIGHTS
from clipkd.core.progress import say
from clipkd.core.timm_weights import classifiers
from clipkd.embeddings import library_models
from clipkd.embeddings.torchvision_encoder import built, layers_of
from clipkd.plugins.teachers import LibraryTeacher
from clipkd.plugins.teachers._library import TRANSFORMED

NESTED = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the weights within a pickled file."""
RENAMED = (
    (re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.mlp)\.linear_2\."), r"\1.3."),
)
"""What parts of weights were called in earlier versions of torchvision, and what they are called now."""
VIT_SIDE = 224
"""The input side of torchvision's ViTs where nobody names another."""


def write(teacher: LibraryTeacher, folder: Path) -> None:
    """Write config.json and model.safetensors of a teacher into `folder`.

    Raises:
        DataError: the file has changed, is damaged or holds something else than weights.
        InputError: the library has no such model or tag.
    """
    path = Path(teacher.weights)
    found = sha256(path) if path.is_file() else "nothing"
    if found != teacher.sha256:
        raise DataError(f"{path} has changed: sha256 expected {teacher.sha256}, found {found}")
    library_models.check(teacher)
    tensors = read(path)
    if teacher.library == "torchvision":
        tensors = renamed(tensors)
    config = timm_config(teacher, tensors) if teacher.library == "timm" else torchvision_config(teacher, tensors)
    values = config["pretrained_cfg"]
    say(
        f"{teacher.full_name}: preprocessing of {values['tag']}: {values['input_size'][1]} pixels, "
        f"{values['interpolation']}, mean {values['mean']}, deviation {values['std']}"
        + ("" if teacher.tag else f"; that of other weights: {teacher.library}:{teacher.model}.TAG?pretrained=...")
    )
    write_json(folder / "config.json", config)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / WEIGHTS)


def read(path: Path) -> dict[str, Tensor]:
    """Return the weights in a safetensors file, or in a pickled one that holds tensors only."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is damaged, or not a safetensors file: {error}{lfs.instead(path)}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # an UnpicklingError is one of pickle's own, which is not imported anywhere here
        raise DataError(
            f"{path} is damaged, or holds more than tensors (a whole model, for example), which is not opened since it "
            f"could run code; save the model's state_dict(){lfs.instead(path)}"
        ) from None
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path} holds no weights by name (a state_dict)")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of torchvision by the names that its models have now; files that it published keep older ones.

    Those are of DenseNets and ViTs, and of batch normalisation without a count of batches, which evaluation never uses.
    """
    found = {}
    for name, tensor in tensors.items():
        for pattern, now in RENAMED:
            name = pattern.sub(now, name)
        found[name] = tensor
    counts = {name.replace("running_mean", "num_batches_tracked") for name in found if name.endswith("running_mean")}
    return found | {name: torch.zeros((), dtype=torch.long) for name in sorted(counts - found.keys())}


def timm_config(teacher: LibraryTeacher, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the config.json of a timm model, as timm writes it; the file's classifier counts the classes."""
    from clipkd.core.timm import timm

    cfg = timm.get_pretrained_cfg(teacher.full_name)
    values = {"tag": teacher.model} if cfg is None else cfg.to_dict(remove_source=True, remove_null=True)
    values.setdefault("tag", teacher.model)
    heads = [f"{name}.weight" for name in classifiers(values)]
    classes = next((len(tensors[name]) for name in heads if name in tensors), 0)
    for key in ("architecture", "num_classes", "custom_load"):
        values.pop(key, None)
    return {"architecture": teacher.model, "num_classes": classes, "pretrained_cfg": values | {"num_classes": classes}}


def torchvision_config(teacher: LibraryTeacher, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the config.json of a torchvision model, with the preprocessing of its weights in timm's words.

    Which weights they are is said by the tag, or by the first eight digits of the file's sha256, which torchvision has
    in the names of its files.
    """
    from clipkd.core.vision import torchvision

    known = {weights.name: weights for weights in torchvision.models.get_model_weights(teacher.model)}
    name, layer = classifier_of(teacher.model)
    of_file = [name for name, weights in known.items() if f"-{teacher.sha256[:8]}." in weights.url]
    tag = teacher.tag or next(iter(of_file), "") or (next(iter(known)) if len(known) == 1 else "")
    if tag not in known:
        raise InputError(
            f"teacher '{teacher.name}': which preprocessing do its weights need? Write torchvision:{teacher.model}.TAG"
            f"?pretrained=...{nearest(tag, known) if tag else ''} (known tags: {', '.join(known)})"
        )
    preset = known[tag].transforms()
    values = {
        "tag": tag,
        "input_size": [3, preset.crop_size[0], preset.crop_size[0]],
        "resize_size": preset.resize_size[0],
        "interpolation": preset.interpolation.value,
        "mean": list(preset.mean),
        "std": list(preset.std),
    }
    return {
        "torchvision": teacher.model,
        "num_classes": len(tensors.get(f"{name}.weight", layer.weight)),
        "pretrained_cfg": values,
        **arguments_of(teacher.model, preset.crop_size[0], is_published=bool(teacher.tag or of_file)),
    }


def classifier_of(model: str) -> tuple[str, Any]:
    """Return the name of a torchvision model's classifier, and the layer itself without values."""
    try:
        with torch.device("meta"):
            return layers_of(built(model)).popitem()
    except NotImplementedError:  # RegNets compute their sizes with tensors
        return layers_of(built(model)).popitem()


def arguments_of(model: str, side: int, is_published: bool) -> dict[str, Any]:
    """Return what torchvision gives the function that builds a model when it loads published weights of its own.

    Those of GoogLeNet and Inception v3 were trained on inputs of another range, to which the model brings them itself.
    """
    if model in TRANSFORMED and is_published:
        return {"transform_input": True}
    return {"image_size": side} if model.startswith("vit_") and side != VIT_SIDE else {}
