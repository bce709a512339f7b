"""A folder as the Hugging Face hub keeps models: weights, config, preprocessing and a model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.export.formats import CONFIG, WEIGHTS, Format

if TYPE_CHECKING:
    from clipkd.export.write import Source

PREPROCESSOR, CARD = "preprocessor_config.json", "README.md"
BILINEAR = 2
"""As PIL and transformers number the filters."""


@dataclass(frozen=True)
class HuggingFace(Format):
    """For the hub, for `clipkd.load`, and (the tower of a CLIP student) for transformers."""

    def write(self, source: Source, folder: Path) -> dict[str, Any]:
        from clipkd.core.artifacts import write_json, write_text
        from clipkd.export.clip_names import settings, to_transformers
        from clipkd.export.model_card import card
        from clipkd.plugins import students
        from clipkd.plugins.students._vit import Student
        from clipkd.runs.folder import save_student

        student, described = source.model.student, source.described
        state = student.state_dict()
        config: dict[str, Any] = {"model_type": "clipkd"}
        if isinstance(student, Student):
            state = to_transformers(state)
            config = settings(student, students.rebuilt(described["student"]))
            described |= {"names": "transformers"}
        labels = dict(enumerate(source.model.names))
        config |= {
            "id2label": {str(number): label for number, label in labels.items()},
            "label2id": {label: number for number, label in labels.items()},
            "dtype": "float32",
            "clipkd": described,
        }
        save_student(state, folder / WEIGHTS)
        write_json(folder / CONFIG, config)
        write_json(folder / PREPROCESSOR, processor(source.model.preprocessing))
        write_text(folder / CARD, card(source, described))
        return {}


def processor(steps: Any) -> dict[str, Any]:
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
