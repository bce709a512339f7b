"""Pretrained weights of a timm student: every weight of its body from a safetensors file, its heads fresh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clipkd.core import lfs
from clipkd.core.errors import DataError
from clipkd.core.files import sha256
from clipkd.core.hub_client import WEIGHTS, verified_file
from clipkd.core.timm_weights import fill
from clipkd.core.weight_problems import problem_of
from clipkd.plugins.students import TimmSpec
from clipkd.plugins.teachers import HubTeacher


@dataclass(frozen=True)
class HubWeights(HubTeacher):
    """Weights of a student on the Hugging Face hub, at a commit."""

    kind: ClassVar[str] = "student"


def load_pretrained(student: nn.Module, spec: TimmSpec) -> None:
    """Put the pretrained weights into a student's body.

    Raises:
        DataError: the file is not the one that the student stands for, damaged, or of another model; names weights.
        InputError, MachineError: the hub has no such file, or is out of reach; says what to run where it is not.
    """
    path = weights_of(spec)
    body: Any = student.body
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"student '{spec.name}': {path} is damaged, or no safetensors file: {error}{lfs.instead(path)}"
        ) from None
    for name, tensor in stored.items():
        if problem := problem_of(tensor):
            raise DataError(f"student '{spec.name}': weight '{name}' of {path} {problem}")
    fill(body, stored, path, spec.model)


def weights_of(spec: TimmSpec) -> Path:
    """Return the file of a student's pretrained weights, fetched from the hub where it is not on this machine."""
    if spec.weights:
        path = Path(spec.weights)
        found = f"sha256:{sha256(path)}" if path.is_file() else "nothing"
        if found != spec.pretrained:
            raise DataError(f"{path} has changed: expected {spec.pretrained}, found {found}")
        return path
    return fetch(spec)


def fetch(spec: TimmSpec) -> Path:
    """Return the file of weights from the Hugging Face cache, downloaded if need be."""
    hub_id, _, revision = spec.pretrained.partition("@")
    name = f"timm:{spec.model}@{spec.image_size}?pretrained={spec.pretrained}"
    return verified_file(HubWeights(name=name, title=spec.name, hub_id=hub_id, revision=revision), WEIGHTS)
