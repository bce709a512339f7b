"""k-NN: the student's embeddings classify by their nearest labelled neighbours, without its classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkd.export.measures import Measure, Measured

if TYPE_CHECKING:
    from torch import Tensor

    from clipkd.export.subject import Subject

NEIGHBOURS, TEMPERATURE = 20, 0.07
SIMILARITIES = 1 << 26
"""Computed at once: 256 MiB."""


class NearestNeighbours(Measure):
    """Weighted k-NN with k = 20 and T = 0.07 (Z. Wu et al., https://arxiv.org/abs/1805.01978, section 3.4, as in DINO,
    https://arxiv.org/abs/2104.14294): neighbour i of an image votes exp(cos(z, z_i) / T) for its class.

    Neighbours are the run's labelled training images, as their test images would be prepared: without augmentation.
    """

    def measure(self, subject: Subject) -> Measured:
        import torch

        train, test = subject.training, subject.test
        here = subject.model.device
        found = votes(
            torch.from_numpy(train.embeddings).to(here),
            torch.from_numpy(train.labels).to(here),
            torch.from_numpy(test.embeddings).to(here),
            len(subject.dataset.classes),
        )
        right = (found.argmax(dim=1).cpu().numpy() == test.labels).mean()
        settings = {"neighbours": NEIGHBOURS, "temperature": TEMPERATURE, "labelled_images": len(train.labels)}
        return Measured({"top1": float(right)}, settings)


def votes(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """Return the votes [M, C] for the classes of embeddings [M, W] of embeddings [N, W] with labels [N]."""
    import torch
    from torch.nn import functional as F

    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    found = []
    for rows in test.split(max(1, SIMILARITIES // len(train))):
        near = (rows @ train.T).topk(min(NEIGHBOURS, len(train)), dim=1)
        # exp((cos - 1) / T) is as good: a factor that all votes share.
        weights = ((near.values - 1) / TEMPERATURE).exp()
        empty = weights.new_zeros(len(rows), classes)
        found.append(empty.scatter_add_(1, labels[near.indices], weights))
    return torch.cat(found)


SPEC = NearestNeighbours(
    name="knn", title="weighted k-NN on the embeddings, k = 20, T = 0.07", protocol=1, needs_classes=False
)
