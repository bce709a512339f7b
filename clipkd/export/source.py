"""What an export is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkd.data.preprocessing import Picture
from clipkd.export.model import Model
from clipkd.export.subject import Subject
from clipkd.plugins.teachers._student import CONTENT
from clipkd.runs.record import Metrics


@dataclass(frozen=True)
class ExportSource:
    """A trained student and its run."""

    model: Model
    metrics: Metrics
    folder: Path
    """The run folder."""
    license: str
    """As the Hugging Face hub names licenses; `other` where the user gave none."""
    images: Sequence[Picture]
    """Real images, for a format that is checked on some."""
    subject: Subject | None = None
    """The student and the very dataset of its run, for a format that is checked; None where that is not there."""
    are_given: bool = False
    """Whether the user named these images."""

    @property
    def description(self) -> dict[str, Any]:
        """What rebuilds the student, and how it was trained; `clipkd` in config.json."""
        metrics, names = self.metrics, self.model.class_names
        return {
            "student": metrics.identity["student"],
            "classes": self.model.classes,
            **({"class_names": names} if names else {}),
            "preprocessing": self.model.preprocessing.facts(),
            "trained": metrics.cell.model_dump()
            | {"fingerprint": metrics.fingerprint, "epochs": metrics.epochs}
            | {"few_labels": metrics.identity.get("few_labels"), CONTENT: metrics.identity["dataset"]["content"]},
        }
