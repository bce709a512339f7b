"""The record of an evaluation, written and read by the same model. No torch here."""

from __future__ import annotations

from typing import Any, Literal

from clipkd.core.typed_json import Model, Positive, Text
from clipkd.runs.record import Device, Score

FORMAT: Literal[1] = 1
EVALUATIONS = "evaluations"
"""The folder of evaluations, beside that of runs."""


class Measurement(Model):
    """What one measure found, and with what."""

    protocol: Positive
    numbers: dict[Text, float | int]
    """The few that are quoted, by name."""
    details: dict[str, Any]
    clipkd: Text
    torch: Text
    device: Device


class Evaluation(Model):
    """What was measured of a trained student."""

    format: Literal[1]
    fingerprint: Text
    """Of the run, or of the export."""
    student: Text
    """The digest of the files of the folder that was evaluated."""
    trained: dict[str, Any]
    """Dataset, recipe, teacher, train type and seed of its run."""
    dataset: Text
    dataset_content: Text
    """The digest of the dataset's content."""
    test_images: Positive
    score: Score | None
    """On the test split; None where the student does not tell its classes apart."""
    measures: dict[Text, Measurement]
    not_measured: dict[Text, Text]
    """Why, by the measure's name."""

    def is_of(self, student: str, dataset_content: str) -> bool:
        """Return whether it is of this student and these images."""
        return (self.student, self.dataset_content) == (student, dataset_content)
