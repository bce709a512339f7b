"""The teacher: a Hugging Face vision encoder, loaded strictly, run without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from clipkd.artifacts import Artifact, open_artifact, read_json
from clipkd.data.pixels import enlarged, normalised
from clipkd.embeddings.checkpoint import check_weights
from clipkd.embeddings.speed import speed_up
from clipkd.embeddings.views import Precision
from clipkd.errors import DataError, InputError, MachineError
from clipkd.teachers import TeacherSpec

CLASS_TOKEN_MODELS = {"vit", "deit", "dinov2", "dinov2_with_registers"}
"""Architectures whose last hidden state starts with a normalised class token."""
NOT_READ = ("pooler.", "classifier.", "cls_classifier.", "distillation_classifier.", "embeddings.mask_token")
"""Weights behind or beside the class token: nothing here depends on them."""


@dataclass
class Teacher:
    """A loaded teacher: maps normalised images to class tokens, and counts how often it does."""

    spec: TeacherSpec
    model: nn.Module
    head: nn.Linear | None
    """The checkpoint's own classifier, where it has one."""
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    precision: Precision = "float32"
    """`float16` and `bfloat16`: matrix products and attention in it, normalisation and softmax in float32."""
    forward_passes: int = 0
    """Images that went through the model."""

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
        """Return the class tokens [B, D], float32, of images [B, 3, S, S] that are normalised already."""
        self.forward_passes += len(inputs)
        kind, is_reduced = getattr(torch, self.precision), self.precision != "float32"
        with torch.autocast(self.device.type, dtype=kind if is_reduced else None, enabled=is_reduced):
            hidden = self.model(pixel_values=enlarged(inputs, self.image_size)).last_hidden_state
        return hidden[:, 0].float()

    def present(self, pixels: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Tensor:
        """Return pixels in [0, 1] as the teacher's input: normalised, then resized as a tensor.

        Without mean and std, the teacher's own.
        """
        return enlarged(normalised(pixels, mean or self.mean, std or self.std), self.image_size)


def load(spec: TeacherSpec, folder: Path, device: torch.device, precision: Precision = "float32") -> Teacher:
    """Load the teacher artefact in `folder`, accepting nothing but the weights it should have.

    transformers fills a missing or mis-shaped weight with random numbers and only warns; here each
    is an error.

    Raises:
        DataError: the artefact is missing or damaged; a weight is missing, unexpected, mis-shaped or
            not finite; the image processor differs from what the teacher's file says.
        InputError: the architecture has no class token.
    """
    try:
        artifact = open_artifact(folder, "teacher", spec.identity())
    except DataError as error:
        raise DataError(f"{error}; `clipkd fetch {spec.name}` brings it") from None
    model_type = read_json(artifact.file("config.json")).get("model_type")
    if model_type not in CLASS_TOKEN_MODELS:
        known = ", ".join(sorted(CLASS_TOKEN_MODELS))
        raise InputError(
            f"teacher '{spec.name}' is a '{model_type}': only encoders with a class token are supported ({known})"
        )
    check_weights(spec, artifact.file("model.safetensors"))
    model, head = load_model(artifact)
    size, mean, std = processor(spec, artifact)
    model = model.eval().requires_grad_(False)
    try:
        model = model.to(device)
    except torch.OutOfMemoryError:
        raise MachineError(f"teacher '{spec.name}' does not fit the memory of {device}") from None
    speed_up(model, spec.title, linear_layers=precision == "float32")
    return Teacher(spec, model, head, size, mean, std, device, precision)


def load_model(artifact: Artifact) -> tuple[nn.Module, nn.Linear | None]:
    """Return the encoder and, where the checkpoint has one, its classifier."""
    from clipkd.vision import torchvision  # noqa: F401  (transformers imports it: it must work first)

    import transformers  # isort: skip

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(artifact.path, local_files_only=True, trust_remote_code=False)
    with safe_open(artifact.file("model.safetensors"), framework="pt") as weights:
        names = list(weights.keys())
    has_head = "classifier.weight" in names
    # A pooler that the checkpoint lacks would be made of random numbers, and counted as parameters.
    no_pooler = config.model_type in {"vit", "deit"} and not any("pooler." in name for name in names)
    options = {"add_pooling_layer": False} if no_pooler and not has_head else {}
    kind = transformers.AutoModelForImageClassification if has_head else transformers.AutoModel
    model, report = kind.from_pretrained(
        artifact.path,
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    complain(artifact.path, report, has_head)
    compare(artifact.file("model.safetensors"), model)
    artifact.still(artifact.file("model.safetensors"))
    return (model.base_model, model.classifier) if has_head else (model, None)


def complain(folder: Path, report: dict, has_head: bool) -> None:
    """Raise DataError listing every weight that transformers would have replaced or dropped."""
    unread = tuple(prefix for prefix in NOT_READ if not (has_head and prefix == "classifier."))
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        for entry in sorted(report.get(kind) or [], key=str):
            name = entry if isinstance(entry, str) else entry[0]
            if kind == "mismatched_keys" or not name.startswith(unread):
                shapes = "" if isinstance(entry, str) else f" (stored {tuple(entry[1])}, model {tuple(entry[2])})"
                problems.append(f"{kind.removesuffix('_keys')}: {name}{shapes}")
    if problems:
        listed = "\n  ".join(problems[:20])
        raise DataError(
            f"{folder / 'model.safetensors'} does not fit its config.json, {len(problems)} weights:\n  {listed}"
        )


def compare(path: Path, model: nn.Module) -> None:
    """Raise DataError where a loaded weight is not, to the bit, what the file holds.

    transformers fills in, renames and converts without a word. What it has no name for in the file is not
    compared here: it was listed as missing or unexpected before.
    """
    loaded = model.state_dict()
    with safe_open(path, framework="pt") as weights:
        stored = {name.removeprefix(f"{model.base_model_prefix}."): name for name in weights.keys()}  # noqa: SIM118
        for name, tensor in loaded.items():
            mine = stored.get(name.removeprefix(f"{model.base_model_prefix}."))
            if mine is not None and not torch.equal(tensor.cpu(), weights.get_tensor(mine).to(tensor.dtype)):
                raise DataError(f"{path}: weight '{mine}' was loaded as other numbers than the file holds")


def processor(spec: TeacherSpec, artifact: Artifact) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Return input side, mean and standard deviation of the checkpoint's image processor."""
    path = artifact.file("preprocessor_config.json")
    values = read_json(path)
    size = values.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    found = (size, tuple(values.get("image_mean") or ()), tuple(values.get("image_std") or ()))
    if not isinstance(size, int) or len(found[1]) != 3 or len(found[2]) != 3:
        raise DataError(f"{path} gives no input size, image_mean and image_std")
    for what, here, known in zip(
        ("size", "image_mean", "image_std"), found, (spec.image_size, spec.mean, spec.std), strict=True
    ):
        if known is not None and here != known:
            raise DataError(f"{path}: {what} is {here}, but teacher '{spec.name}' is known with {known}")
    return found
