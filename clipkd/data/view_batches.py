"""Batches of views that a recipe draws: new ones in each epoch, or only those that are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipkd.data.augmentation import Augmentation, DrawnViews, stored_views
from clipkd.data.batches import Batch, CroppedBatches, FlippedBatches, Turn, shuffled
from clipkd.data.pixels import normalised


class Stored(NamedTuple):
    """The only views that a student is shown: each image's first ones that a seed draws."""

    seed: int
    each: int
    """Views of an image."""


class ViewBatches:
    """Views that an augmentation draws (clipkd/data/augmentation.py): new ones in each epoch, or only those stored."""

    def __init__(
        self,
        source: FlippedBatches | CroppedBatches,
        augmentation: Augmentation,
        classes: int,
        stored: Stored | None = None,
        with_pixels: bool = False,
    ) -> None:
        """Draw views of another source's images.

        Args:
            source: the images, their labels, and batches to evaluate on.
            augmentation: how views are drawn and made.
            classes: number of classes.
            stored: the only views to show; None: new ones in each epoch.
            with_pixels: add the views before they are normalised and erased, for a live teacher.
        """
        self.source, self.augmentation, self.classes = source, augmentation, classes
        self.stored, self.with_pixels = stored, with_pixels
        self.count, self.evaluation = source.count, source.evaluation

    def epoch(
        self, size: int, drop_last: bool, generator: torch.Generator, start: int = 0, turn: Turn | None = None
    ) -> Iterator[Batch]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        batches = shuffled(self.source.rows, size, drop_last, generator, start, False)
        items = ((number, *self.draw(rows.numpy(), seed, turn or Turn())) for number, rows, _ in batches)
        for (number, views, drawn), flat, starts in self.source.train.over(items, lambda item: item[2].rows):
            yield self.batch(seed, number, views, drawn, self.augmentation.make(drawn, flat, starts))

    def draw(self, rows: np.ndarray, seed: int, turn: Turn) -> tuple[np.ndarray, DrawnViews]:
        """Return the number of each image's view [B], and what is shown; `seed`: the epoch's."""
        if self.stored is None:
            return np.zeros(len(rows), np.int64), self.augmentation.draw(seed, rows)
        views = stored_views(turn.seed, turn.epoch, rows, self.stored.each)
        return views, self.augmentation.draw(self.stored.seed, rows, views)

    def batch(self, seed: int, number: int, views: np.ndarray, drawn: DrawnViews, pixels: Tensor) -> Batch:
        """Return a batch, given its views in [0, 1], its number and the epoch's seed."""
        spec, rows = self.source.spec, drawn.rows[: drawn.count]
        inputs = normalised(pixels, spec.mean, spec.std)
        inputs = self.augmentation.for_student(inputs, seed, number, rows)
        labels = self.augmentation.targets(self.source.labels_of(drawn.rows), drawn, self.classes)
        flips = torch.from_numpy(drawn.flips[: drawn.count])
        native = pixels if self.with_pixels else None
        return Batch(torch.from_numpy(rows), flips, torch.from_numpy(views), labels, inputs, native)
