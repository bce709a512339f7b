"""Classes: the accuracy of each class, and what its images are taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkd.export.measures import Measure, Measured

if TYPE_CHECKING:
    from clipkd.export.subject import Subject


class Classes(Measure):
    """Accuracy of each class (recall), and the confusion matrix by name: class, then prediction, then images."""

    def measure(self, subject: Subject) -> Measured:
        import numpy as np

        names = subject.model.classes
        matrix = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(matrix, (subject.test.labels, subject.test.logits.argmax(axis=1)), 1)
        counts = matrix.sum(axis=1)
        accuracy = {name: float(matrix[row, row] / counts[row]) for row, name in enumerate(names) if counts[row]}
        # Zeros are left out: of a thousand classes a million numbers would be written.
        confusion = {
            name: {names[column]: int(matrix[row, column]) for column in np.flatnonzero(matrix[row])}
            for row, name in enumerate(names)
        }
        values = list(accuracy.values())
        numbers = {"mean_class_accuracy": float(np.mean(values)), "worst_class_accuracy": min(values)}
        return Measured(numbers, {"accuracy": accuracy, "confusion": confusion})


SPEC = Classes(name="classes", title="accuracy of each class", protocol=1)
