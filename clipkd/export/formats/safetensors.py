"""Weights as safetensors under their own names, and a config.json that describes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.files import write_json
from clipkd.export.files import CONFIG, WEIGHTS
from clipkd.export.formats import Format

if TYPE_CHECKING:
    from clipkd.export.source import ExportSource


@dataclass(frozen=True)
class Safetensors(Format):
    """For `clipkd.load`, and for anyone who reads tensors by name."""

    def write(self, source: ExportSource, folder: Path) -> dict[str, Any]:
        from clipkd.runs.folder import save_student

        save_student(source.model.student.state_dict(), folder / WEIGHTS)
        write_json(folder / CONFIG, {"clipkd": source.description})
        return {}


SPEC = Safetensors(name="safetensors", title="model.safetensors and config.json, for clipkd.load")
