"""Weights as safetensors under their own names, and a config.json that says what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.export.formats import CONFIG, WEIGHTS, Format

if TYPE_CHECKING:
    from clipkd.export.write import Source


@dataclass(frozen=True)
class Safetensors(Format):
    """For `clipkd.load`, and for anyone who reads tensors by name."""

    def write(self, source: Source, folder: Path) -> dict[str, Any]:
        from clipkd.core.artifacts import write_json
        from clipkd.runs.folder import save_student

        save_student(source.model.student.state_dict(), folder / WEIGHTS)
        write_json(folder / CONFIG, {"clipkd": source.described})
        return {}


SPEC = Safetensors(name="safetensors", title="model.safetensors and config.json, for clipkd.load")
