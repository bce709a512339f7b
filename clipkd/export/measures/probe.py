"""Probe: a linear classifier fitted to the student's embeddings, as to a teacher's (clipkd/embeddings/head.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkd.export.measures import Measure, Measured, NotMeasured

if TYPE_CHECKING:
    from clipkd.export.subject import Subject


class Probe(Measure):
    """Multinomial logistic regression with an L2 penalty on standardised dimensions, without augmentation.

    It is fitted to the run's labelled training images; the penalty is the one with the best accuracy on the
    dataset's validation rows, the accuracy that on the test split.
    """

    def measure(self, subject: Subject) -> Measured:
        import torch
        from torch.nn import functional as F

        from clipkd.embeddings.head import FEW_STRENGTHS, STRENGTHS, accuracy, best_probe

        parts = {"train": subject.training, "validation": subject.validation, "test": subject.test}
        if not len(parts["validation"].labels):
            raise NotMeasured("no labelled validation image is there to choose the penalty by")
        here, classes = subject.model.device, len(subject.dataset.classes)
        vectors = {part: torch.from_numpy(views.embeddings).to(here) for part, views in parts.items()}
        targets = {part: torch.from_numpy(views.labels).to(here) for part, views in parts.items()}
        strengths = FEW_STRENGTHS if subject.few else STRENGTHS
        strength, weight, bias = best_probe(vectors, targets, classes, strengths)
        logits = F.linear(vectors["test"], weight, bias)
        settings = {"l2": strength, "labelled_images": len(targets["train"])}
        return Measured({"top1": accuracy(logits, targets["test"])}, settings)


SPEC = Probe(name="probe", title="linear probe on the embeddings", protocol=1, needs_classes=False)
