"""Encoders of transformers: loaded strictly, since it fills in what a file lacks and only warns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import Tensor, nn

from clipkd.core.artifacts import Artifact
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json
from clipkd.embeddings.acceleration import accelerate, accelerate_linear
from clipkd.embeddings.encoder import Encoder, check_output, on_device
from clipkd.embeddings.families import FAMILIES, POOLER, VisionFamily, vision_family
from clipkd.embeddings.processor import Processor, processor, processor_file
from clipkd.embeddings.weights import compare, complain, plain
from clipkd.plugins.teachers import Output, TeacherSpec

OUTPUTS: tuple[Output, ...] = ("cls", "mean", "pooler")


def encoder(spec: TeacherSpec, artifact: Artifact, device: torch.device, is_float32: bool) -> Encoder:
    """Load the encoder of a checkpoint.

    Raises:
        DataError: a weight is missing, unexpected or mis-shaped; config.json and the image processor do not fit.
        InputError: the architecture is unknown here, or has not what is to be taken of it.
    """
    config = read_json(artifact.file("config.json"))
    family, image_processor = settings(spec, config, processor_file(artifact))
    model, head = load_model(artifact, family, spec)
    model = on_device(model, spec, device)

    def embed(inputs: Tensor) -> Tensor:
        outputs = model(pixel_values=inputs, **family.inputs(model.config, inputs))
        return pooled(outputs, spec.output, family.tokens(model.config))

    side = image_processor.image_size
    if family.block is not None:
        accelerate(model, spec.title, is_float32, None if spec.output == "mean" else family.block)
    elif is_float32:
        accelerate_linear(model, spec.title, lambda: embed(torch.zeros(1, 3, side, side, device=device)))
    return Encoder(model, embed, width_of(model.config), image_processor, head)


def settings(spec: TeacherSpec, config: dict[str, Any], path: Path) -> tuple[VisionFamily, Processor]:
    """Return what a checkpoint's settings say, before its weights are needed.

    Args:
        spec: the teacher.
        config: the content of its config.json.
        path: the file that describes its image processor.

    Raises:
        DataError: the two files do not fit each other.
        InputError: one of them asks for something that is not supported.
    """
    family, image_processor = family_of(spec, config), processor(spec, path)
    side, processed = side_of(config), image_processor.image_size
    if family.has_fixed_size and side is not None and side != processed:
        raise DataError(f"{path.parent}: config.json says images of {side} pixels, {path.name} {processed}")
    return family, image_processor


def width_of(config: Any) -> int:
    """Return the dimensions D of a model's vectors."""
    return int(config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size)


def pooled(outputs: Any, output: str, tokens: int) -> Tensor:
    """Return one vector [B, D] per image.

    Args:
        outputs: what the encoder gives.
        output: `cls`, `mean` or `pooler`.
        tokens: how many tokens of the last hidden state [B, T, D] precede the patches; of a map [B, D, H, W] none.
    """
    if output == "pooler":
        return outputs.pooler_output.flatten(1)
    hidden = outputs.last_hidden_state
    if hidden.ndim == 4:
        return hidden.mean(dim=(2, 3))
    return hidden[:, 0] if output == "cls" else hidden[:, tokens:].mean(dim=1)


def side_of(config: dict[str, Any]) -> int | str | None:
    """Return the side of the images of a config.json, one number or a pair; words if it's no square, None if unsaid."""
    vision = config.get("vision_config")
    size = (vision if isinstance(vision, dict) else config).get("image_size")
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return int(pair[0]) if len(set(pair)) == 1 else " x ".join(map(str, pair))


def family_of(spec: TeacherSpec, config: dict[str, Any]) -> VisionFamily:
    """Return the family of a checkpoint's vision encoder; InputError if it is unknown or lacks the output."""
    family = vision_family(str(config.get("model_type")))
    if family is None:
        known = ", ".join(sorted(name for name in FAMILIES if vision_family(name)))
        kind = f"'{config['model_type']}'" if "model_type" in config else "missing"
        raise InputError(
            f"teacher '{spec.name}': its model_type is {kind}; supported vision encoders: {known}; "
            "and every model of timm: timm/MODEL@<commit>"
        )
    check_output(spec, OUTPUTS, "an encoder of transformers")
    if spec.output == "cls" and not family.has_class_token:
        raise InputError(f"teacher '{spec.name}' has no class token: end its name in :mean or :pooler")
    return family


def load_model(artifact: Artifact, family: VisionFamily, spec: TeacherSpec) -> tuple[nn.Module, nn.Linear | None]:
    """Return the encoder and, where the checkpoint has one on its class token, its classifier."""
    with safe_open(artifact.file("model.safetensors"), framework="pt") as weights:
        names = list(weights.keys())
    has_head = "classifier.weight" in names and spec.output == "cls" and family.has_classifier
    has_pooler = not family.pooler or any(plain(name).startswith(family.pooler) for name in names)
    if spec.output == "pooler" and not has_pooler:
        others = ":cls or :mean" if family.has_class_token else ":mean"
        raise InputError(f"teacher '{spec.name}': its checkpoint has no pooler; end its name in {others}")
    # A pooler that the checkpoint lacks would be made of random numbers, and counted as parameters.
    options: dict[str, Any] = (
        {"add_pooling_layer": False} if family.pooler == POOLER and not has_pooler and not has_head else {}
    )
    name = "AutoModelForImageClassification" if has_head else family.model
    model, report = built(name, artifact, **options, **family.changes)
    # The pooler stands behind the class token and the patches: nothing depends on it but its own output.
    unused = family.unused if spec.output == "pooler" or family.pooler != POOLER else (*family.unused, POOLER)
    unused = tuple(name for name in unused if not (has_head and name == "classifier."))
    complain(artifact.path, report, unused)
    compare(artifact.file("model.safetensors"), model, unused)
    artifact.still(artifact.file("model.safetensors"))
    return (model.base_model, model.classifier) if has_head else (model, None)


def built(name: str, artifact: Artifact, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Return the model that a checkpoint holds, of a class of transformers, and the report of how it was loaded.

    Raises:
        DataError: no such model can be built from its config.json.
    """
    from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it: it must work first)

    import transformers  # isort: skip

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, name)
    try:
        model, report = kind.from_pretrained(
            artifact.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed in the report, which is not ignored
            **options,
        )
    # Whatever it raises while it builds a network from numbers and words is about these.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        path = artifact.file("config.json")
        raise DataError(f"{path}: transformers can't build a {name} from it ({reason})") from None
    return model, report
