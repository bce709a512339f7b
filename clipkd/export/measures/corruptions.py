"""Corruptions: the accuracy on noisy, blurred, fogged and compressed test images (clipkd/data/corruptions.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkd.export.measures import Measure, Measured

if TYPE_CHECKING:
    from clipkd.export.subject import Subject

PIXELS = 500 * 32 * 32
"""Of a batch, in each channel."""


class Corruptions(Measure):
    """Top-1 accuracy over the corrupted test split: the mean over kinds and severities, and its complement.

    D. Hendrycks, T. Dietterich, https://arxiv.org/abs/1903.12261; as for CIFAR-C, not divided by the error of another
    network.
    """

    def measure(self, subject: Subject) -> Measured:
        import numpy as np
        import torch

        from clipkd.core.progress import progress
        from clipkd.data.corruptions import KINDS, LEFT_OUT, SEVERITIES, corrupted
        from clipkd.data.pixels import normalised, planes, unit

        model, labels = subject.model, subject.dataset.test_labels
        steps, cases = model.preprocessing, [(kind, severity) for kind in KINDS for severity in SEVERITIES]
        size = max(1, PIXELS // steps.size**2)
        parts = list(subject.batches(np.arange(len(labels)), size))
        batches = [(batch, case) for batch in parts for case in range(len(cases))]
        right = torch.zeros(len(cases), dtype=torch.int64, device=model.device)
        with torch.inference_mode():
            for batch, case in progress(batches, len(batches), "running the student on corrupted test images"):
                if case == 0:
                    images = planes(subject.images("test", batch)).to(model.device)
                    rows, targets = (torch.from_numpy(one).to(model.device) for one in (batch, labels[batch]))
                found = corrupted(images, *cases[case], rows)
                logits = model.student(normalised(unit(found), steps.mean, steps.std)).logits
                right[case] += (logits.argmax(dim=1) == targets).sum()
        accuracy = (right.cpu().double() / len(labels)).view(len(KINDS), len(SEVERITIES))
        mean = float(accuracy.mean())
        by_kind = dict(zip(KINDS, accuracy.tolist(), strict=True))
        details = {"accuracy": by_kind, "left_out": list(LEFT_OUT), "by_severity": accuracy.mean(dim=0).tolist()}
        return Measured({"accuracy": mean, "error": 1 - mean}, details)


SPEC = Corruptions(name="corruptions", title="accuracy on 14 of the 15 kinds of CIFAR-C", protocol=1)
