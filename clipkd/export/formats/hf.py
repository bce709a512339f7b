"""A folder as timm and the Hugging Face hub keep models: weights, config and a model card.

`timm.create_model("local-dir:FOLDER", pretrained=True)` and `transformers.pipeline("image-classification", FOLDER)`
load it, with labels and preprocessing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.errors import InputError, first_line
from clipkd.core.files import write_json, write_text
from clipkd.export.files import CARD, CONFIG, DISTILLATION, WEIGHTS
from clipkd.export.formats import Format
from clipkd.plugins import students

if TYPE_CHECKING:
    from clipkd.export.model import Model
    from clipkd.export.source import ExportSource

ROUNDING = 1e-4
"""Allowed between timm's scores and the student's, relative to the largest."""


@dataclass(frozen=True)
class HuggingFace(Format):
    """For the hub, timm, transformers and `clipkd.load`."""

    def write(self, source: ExportSource, folder: Path) -> dict[str, Any]:
        from clipkd.export.model_card import card
        from clipkd.plugins.students._timm_names import to_timm
        from clipkd.runs.folder import save_student

        spec = students.rebuilt(source.description["student"])
        described = config(source.model, spec) | {"clipkd": source.description | {"names": "timm"}}
        try:
            state, aside = to_timm(source.model.student.state_dict(), spec)
        except (AttributeError, RuntimeError) as error:
            raise does_not_fit(described["architecture"], f" ({first_line(error)})") from None
        save_student(state, folder / WEIGHTS)
        if aside:
            save_student(aside, folder / DISTILLATION)
        write_json(folder / CONFIG, described)
        largest = compare(source.model, folder)
        write_text(folder / CARD, card(source, self.name))
        return {"largest_difference": largest}


def config(model: Model, spec: students.NetworkSpec) -> dict[str, Any]:
    """Return the keys of config.json from which timm and transformers build the model and its preprocessing."""
    from clipkd.plugins.students._timm_names import timm_form

    form, classes = timm_form(spec), len(model.names)
    steps = model.preprocessing
    return {
        "architecture": form.architecture,
        "num_classes": classes,
        "model_args": form.arguments,
        "label_names": model.names,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, steps.size, steps.size],
            "fixed_input_size": form.is_fixed,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",  # the whole image is resized, without a crop
            "mean": list(steps.mean),
            "std": list(steps.std),
            "num_classes": classes,
            "classifier": form.classifiers[0] if len(form.classifiers) == 1 else list(form.classifiers),
        },
    }


def compare(model: Model, folder: Path) -> float:
    """Return the largest difference between the scores of the folder's model, loaded by timm, and the student's.

    Raises:
        InputError: timm can't load it, or it gives other scores: a model that timm's classifier does not fit.
    """
    import timm
    import torch

    size, architecture = model.preprocessing.size, json.loads((folder / CONFIG).read_text())["architecture"]
    inputs = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.student.cpu().eval()(inputs).logits
        try:
            found = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            raise does_not_fit(architecture, f" ({first_line(error)})") from None
    largest = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not largest <= ROUNDING:
        raise does_not_fit(architecture, f": its scores differ by up to {largest:.2g}; nothing was written")
    return largest


def does_not_fit(architecture: str, why: str) -> InputError:
    """Return what to tell the user where timm has no such classifier."""
    words = "does not compute what the student computes; export it as safetensors or onnx"
    return InputError(f"timm's {architecture} {words}{why}")


SPEC = HuggingFace(
    name="hf", title="model.safetensors, config.json and a model card, for timm, transformers and the hub"
)
