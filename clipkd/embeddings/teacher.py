"""The teacher: a vision encoder of any library, loaded strictly, run without gradients."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from clipkd.core.artifacts import Artifact, open_artifact
from clipkd.core.device import float32_products, has_tf32
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json
from clipkd.data.pixels import enlarged, normalised
from clipkd.embeddings.encoder import Encoder
from clipkd.embeddings.processor import Processor
from clipkd.embeddings.weights import check_weights
from clipkd.embeddings.weights_sha256 import weights_of
from clipkd.plugins.teachers import TeacherSpec, is_timm
from clipkd.spec.settings import TeacherPrecision


@dataclass
class Teacher:
    """A loaded teacher: maps normalised images to vectors, and counts how often it does."""

    spec: TeacherSpec
    encoder: Encoder
    device: torch.device
    precision: TeacherPrecision = "float32"
    """`float16` and `bfloat16`: matrix products and attention in it, normalisation and softmax in float32. `tf32`:
    products of float32 in TF32."""
    weights_sha256: str | None = None
    """Of the file that its weights were loaded from."""
    forward_passes: int = 0
    """Images that went through the model."""

    @property
    def model(self) -> nn.Module:
        return self.encoder.model

    @property
    def head(self) -> nn.Linear | None:
        """The checkpoint's own classifier, where it has one."""
        return self.encoder.head

    @property
    def processor(self) -> Processor:
        return self.encoder.processor

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
        return self.encoder.width

    @torch.inference_mode()
    def embed(self, inputs: Tensor) -> Tensor:
        """Return the embeddings [B, D], float32, of images [B, 3, S, S] that are normalised already."""
        self.forward_passes += len(inputs)
        reduced = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(self.precision)
        # Whatever a training around it computes in: a live teacher says what a stored one says.
        products = float32_products("tf32" if self.precision == "tf32" else "float32", self.device)
        with products, torch.autocast(self.device.type, dtype=reduced, enabled=reduced is not None):
            return self.encoder.embed(enlarged(inputs, self.image_size)).float()

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


def load(spec: TeacherSpec, folder: Path, device: torch.device, precision: TeacherPrecision = "float32") -> Teacher:
    """Load the teacher artefact in `folder`, accepting nothing but the weights it should have.

    Raises:
        DataError: the artefact is missing or damaged; a weight is missing, unexpected, mis-shaped or
            not finite; the image processor differs from what the teacher's file says.
        InputError: the architecture is unknown here, or has not what is to be taken of it; the device has no TF32.
        MachineError: it does not fit the device's memory.
    """
    if precision == "tf32" and not has_tf32(device):
        raise InputError(
            f"embeddings.precision tf32 (--embed-precision): this device ({device}) has no TF32, a GPU from Ampere on "
            "has it; take float32"
        )
    artifact = opened(spec, folder)
    check_weights(spec, artifact.file("model.safetensors"))
    encoder = encoder_of(spec, artifact, device, precision in {"float32", "tf32"})
    return Teacher(spec, encoder, device, precision, weights_of(artifact))


def opened(spec: TeacherSpec, folder: Path) -> Artifact:
    """Open the teacher artefact in `folder`; DataError where it is missing or damaged."""
    try:
        return open_artifact(folder, "teacher", spec.identity())
    except DataError as error:
        raise DataError(f"{error}; run `clipkd fetch {shlex.quote(spec.typed)}` to download it") from None


def encoder_of(spec: TeacherSpec, artifact: Artifact, device: torch.device, is_float32: bool) -> Encoder:
    """Load the encoder of a checkpoint with the library that its config.json is of; raises as `load`."""
    config = read_json(artifact.file("config.json"))
    if "clipkd" in config:
        from clipkd.embeddings.student_teacher import encoder
    elif is_timm(config):
        from clipkd.embeddings.timm_encoder import encoder
    elif "torchvision" in config:
        from clipkd.embeddings.torchvision_encoder import encoder
    else:
        from clipkd.embeddings.transformers_encoder import encoder
    return encoder(spec, artifact, device, is_float32)
