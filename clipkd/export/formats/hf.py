"""A folder as the Hugging Face hub keeps models: weights, config, preprocessing and a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.artifacts import write_json, write_text
from clipkd.export.files import CARD, CONFIG, WEIGHTS
from clipkd.export.formats import Format
from clipkd.plugins import students

if TYPE_CHECKING:
    from clipkd.data.preprocessing import Preprocessing
    from clipkd.export.source import ExportSource

PREPROCESSOR = "preprocessor_config.json"
BILINEAR = 2
"""As PIL and transformers number the filters."""


@dataclass(frozen=True)
class HuggingFace(Format):
    """For the hub, for `clipkd.load`, and (the tower of a CLIP student) for transformers."""

    def write(self, source: ExportSource, folder: Path) -> dict[str, Any]:
        from clipkd.export.clip_names import settings, to_transformers
        from clipkd.export.model_card import card
        from clipkd.plugins.students._vit import Student
        from clipkd.runs.folder import save_student

        student, description = source.model.student, source.description
        state = student.state_dict()
        config: dict[str, Any] = {"model_type": "clipkd"}
        if isinstance(student, Student):
            state = to_transformers(state)
            config = settings(student, students.rebuilt(description["student"]))
            description["names"] = "transformers"
        config |= {
            "id2label": {str(number): name for number, name in enumerate(source.model.names)},
            "label2id": {name: number for number, name in enumerate(source.model.names)},
            "dtype": "float32",
            "clipkd": description,
        }
        save_student(state, folder / WEIGHTS)
        write_json(folder / CONFIG, config)
        write_json(folder / PREPROCESSOR, processor(source.model.preprocessing))
        write_text(folder / CARD, card(source, description))
        return {}


def processor(steps: Preprocessing) -> dict[str, Any]:
    """Return the settings of transformers' ViTImageProcessor that do the same to an image of the dataset."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": steps.size, "width": steps.size},
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(steps.mean),
        "image_std": list(steps.std),
    }


SPEC = HuggingFace(name="hf", title="config.json, preprocessor_config.json, model.safetensors and a model card")
