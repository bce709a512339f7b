"""Calibration: whether a student is right as often as it is sure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkd.export.measures import Measure, Measured

if TYPE_CHECKING:
    import numpy as np

    from clipkd.export.subject import Subject

BINS = 15


class Calibration(Measure):
    """The expected calibration error (C. Guo et al., https://arxiv.org/abs/1706.04599, eq. 3).

    The confidence of an image is its largest probability, softmax of the class scores. Bin m of 15 holds the
    confidences in ((m - 1) / 15, m / 15]; ECE is the mean over images of |accuracy - confidence| of their bin.
    """

    def measure(self, subject: Subject) -> Measured:
        probabilities = subject.test.probabilities
        found = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == subject.test.labels)
        images = len(probabilities)
        error = sum(one["images"] / images * abs(one["accuracy"] - one["confidence"]) for one in found)
        confidence = sum(one["images"] / images * one["confidence"] for one in found)
        return Measured({"ece": error, "confidence": confidence}, {"bins": found})


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float]]:
    """Return, of each bin that holds an image, its bounds, images, accuracy and mean confidence.

    Args:
        confidence: of each image, (0, 1], float64 [N].
        correct: whether it is classified correctly, bool [N].
    """
    import numpy as np

    edges = np.linspace(0, 1, BINS + 1)
    number = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    return [
        {
            "above": float(edges[one]),
            "up_to": float(edges[one + 1]),
            "images": int((number == one).sum()),
            "accuracy": float(correct[number == one].mean()),
            "confidence": float(confidence[number == one].mean()),
        }
        for one in np.unique(number)
    ]


SPEC = Calibration(name="calibration", title="expected calibration error, 15 bins", protocol=1)
