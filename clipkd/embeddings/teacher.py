"""The teacher: a Hugging Face vision encoder, loaded strictly, run without gradients."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clipkd.core.artifacts import Artifact, open_artifact, read_json
from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.data.pixels import enlarged, normalised
from clipkd.embeddings.acceleration import accelerate
from clipkd.embeddings.families import FAMILIES, POOLER, VisionFamily, vision_family
from clipkd.embeddings.processor import Processor, processor, processor_file
from clipkd.embeddings.teacher_checkpoint import check_weights
from clipkd.embeddings.weights import compare, complain, plain
from clipkd.embeddings.weights_sha256 import weights_of
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec.settings import TeacherPrecision


@dataclass
class Teacher:
    """A loaded teacher: maps normalised images to vectors, and counts how often it does."""

    spec: TeacherSpec
    model: nn.Module
    head: nn.Linear | None
    """The checkpoint's own classifier, where it has one."""
    family: VisionFamily
    processor: Processor
    device: torch.device
    precision: TeacherPrecision = "float32"
    """`float16` and `bfloat16`: matrix products and attention in it, normalisation and softmax in float32."""
    weights_sha256: str | None = None
    """Of the file that its weights were loaded from."""
    forward_passes: int = 0
    """Images that went through the model."""

    @property
    def image_size(self) -> int:
        """Side of the input, in pixels."""
        return self.processor.image_size

    @property
    def mean(self) -> tuple[float, ...]:
        """The checkpoint's own normalisation, in units of [0, 1]."""
        return self.processor.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.processor.std

    @property
    def parameters(self) -> int:
        """Number of the encoder's parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def width(self) -> int:
        """Dimensions D of an embedding."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    @torch.inference_mode()
    def embed(self, inputs: Tensor) -> Tensor:
        """Return the embeddings [B, D], float32, of images [B, 3, S, S] that are normalised already."""
        self.forward_passes += len(inputs)
        kind, is_reduced = getattr(torch, self.precision), self.precision != "float32"
        with torch.autocast(self.device.type, dtype=kind if is_reduced else None, enabled=is_reduced):
            outputs = self.model(pixel_values=enlarged(inputs, self.image_size))
        return pooled(outputs, self.spec.output, self.family.tokens(self.model.config)).float()

    def present(self, pixels: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
        """Return pixels in [0, 1] as the teacher's input.

        With mean and std: normalised, then resized as a tensor. Without: as its image processor does it.
        """
        if mean is None or std is None:
            return self.processor.present(pixels)
        return enlarged(normalised(pixels, mean, std), self.image_size)


def not_finite(spec: TeacherSpec, precision: TeacherPrecision) -> str:
    """Return the message on an embedding that is not finite, though all weights are (`check_weights`)."""
    if precision == "float16":
        cause = (
            "its weights are sound, but numbers inside it are larger than float16 holds (65,504); take bfloat16 or "
            "float32 (embeddings.precision in the config, or --embed-precision)"
        )
    else:
        cause = (
            f"its weights are finite, but numbers inside it overflow {precision}: the checkpoint may be damaged, or of "
            "another architecture than its config.json says"
        )
    return f"teacher '{spec.name}' gave an embedding that is not finite: {cause}"


def pooled(outputs: Any, output: str, tokens: int) -> Tensor:
    """Return one vector [B, D] per image.

    Args:
        outputs: what the encoder gives.
        output: `cls`, `mean` or `pooler`.
        tokens: how many tokens of the last hidden state [B, T, D] precede the patches.
    """
    if output == "pooler":
        return outputs.pooler_output
    hidden = outputs.last_hidden_state
    return hidden[:, 0] if output == "cls" else hidden[:, tokens:].mean(dim=1)


def load(spec: TeacherSpec, folder: Path, device: torch.device, precision: TeacherPrecision = "float32") -> Teacher:
    """Load the teacher artefact in `folder`, accepting nothing but the weights it should have.

    transformers fills a missing or mis-shaped weight with random numbers and only warns; here each
    is an error.

    Raises:
        DataError: the artefact is missing or damaged; a weight is missing, unexpected, mis-shaped or
            not finite; the image processor differs from what the teacher's file says.
        InputError: the architecture is unknown here, or has not what is to be taken of it.
    """
    try:
        artifact = open_artifact(folder, "teacher", spec.identity())
    except DataError as error:
        raise DataError(f"{error}; run `clipkd fetch {shlex.quote(spec.name)}` to download it") from None
    config = read_json(artifact.file("config.json"))
    family = family_of(spec, config)
    check_weights(spec, artifact.file("model.safetensors"))
    model, head = load_model(artifact, family, spec)
    image_processor = processor(spec, artifact)
    side, processed = side_of(model.config), image_processor.image_size
    if family.has_fixed_size and side != processed:
        settings = processor_file(artifact).name
        raise DataError(f"{folder}: config.json says images of {side} pixels, {settings} {processed}")
    model = model.eval().requires_grad_(False)
    try:
        model = model.to(device)
    except torch.OutOfMemoryError:
        raise MachineError(f"teacher '{spec.name}' does not fit the memory of {device}") from None
    accelerate(model, spec.title, precision == "float32", None if spec.output == "mean" else family.block)
    return Teacher(spec, model, head, family, image_processor, device, precision, weights_of(artifact))


def side_of(config: Any) -> int | str:
    """Return the side of the images of a model's config, which may be one number or a pair; words if it's no square."""
    size = config.image_size
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return int(pair[0]) if len(set(pair)) == 1 else " x ".join(map(str, pair))


def family_of(spec: TeacherSpec, config: dict[str, Any]) -> VisionFamily:
    """Return the family of a checkpoint's vision encoder; InputError if it is unknown or lacks the output."""
    family = vision_family(str(config.get("model_type")))
    if family is None:
        known = ", ".join(sorted(name for name in FAMILIES if vision_family(name)))
        kind = f"'{config['model_type']}'" if "model_type" in config else "missing"
        raise InputError(f"teacher '{spec.name}': its model_type is {kind}; supported vision encoders: {known}")
    if spec.output == "cls" and not family.has_class_token:
        raise InputError(f"teacher '{spec.name}' has no class token: end its name in :mean or :pooler")
    return family


def load_model(artifact: Artifact, family: VisionFamily, spec: TeacherSpec) -> tuple[nn.Module, nn.Linear | None]:
    """Return the encoder and, where the checkpoint has one on its class token, its classifier."""
    from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it: it must work first)

    import transformers  # isort: skip

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with safe_open(artifact.file("model.safetensors"), framework="pt") as weights:
        names = list(weights.keys())
    has_head = "classifier.weight" in names and spec.output == "cls" and family.has_classifier
    has_pooler = not family.pooler or any(plain(name).startswith(family.pooler) for name in names)
    if spec.output == "pooler" and not has_pooler:
        others = ":cls or :mean" if family.has_class_token else ":mean"
        raise InputError(f"teacher '{spec.name}': its checkpoint has no pooler; end its name in {others}")
    # A pooler that the checkpoint lacks would be made of random numbers, and counted as parameters.
    options = {"add_pooling_layer": False} if family.pooler == POOLER and not has_pooler and not has_head else {}
    kind = transformers.AutoModelForImageClassification if has_head else getattr(transformers, family.model)
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
    # The pooler stands behind the class token and the patches: nothing depends on it but its own output.
    unused = family.unused if spec.output == "pooler" or family.pooler != POOLER else (*family.unused, POOLER)
    unused = tuple(name for name in unused if not (has_head and name == "classifier."))
    complain(artifact.path, report, unused)
    compare(artifact.file("model.safetensors"), model, unused)
    artifact.still(artifact.file("model.safetensors"))
    return (model.base_model, model.classifier) if has_head else (model, None)
