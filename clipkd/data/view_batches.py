"""Batches of views that a recipe draws: new ones in each epoch, or only those that are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipkd.core.prefetch import prefetch
from clipkd.data.augmentation import Augmentation, DrawnViews, stored_views
from clipkd.data.batches import Batch, BatchPlan, CroppedBatches, FlippedBatches, Turn, shuffled, together
from clipkd.data.labelled import TrainingImages
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
        self,
        size: int,
        drop_last: bool,
        generator: torch.Generator,
        start: int = 0,
        turn: Turn | None = None,
        shown: TrainingImages | None = None,
    ) -> Iterator[Batch]:
        shown = shown or self.source.shown
        seed = int(torch.randint(2**62, (1,), generator=generator))
        plans = shuffled(shown, size, drop_last, generator, start, False)
        if not self.with_pixels:
            plans = together(plans, self.source.train, self.augmentation.side, size)
        # New views are mixed among the images of the epoch; stored ones as the teacher saw them.
        drawing = self.augmentation if self.stored else replace(self.augmentation, training=shown.rows)
        draw = partial(self.draw, drawing, seed=seed, turn=turn or Turn())
        # Beside a GPU there are cores to spare: one draws what is shown next, while this one launches kernels.
        is_alone = self.source.device.type == "cpu"
        items = ((plan, draw(plan)) for plan in plans) if is_alone else prefetch(draw, plans, 1, 1)
        for (plan, (views, drawn)), flat, starts in self.source.train.over(items, lambda item: item[1][1].rows):
            pixels = self.augmentation.make(drawn, flat, starts)
            yield from self.batch(seed, plan, views, drawn, pixels, shown, size).split(size)

    def draw(self, drawing: Augmentation, plan: BatchPlan, seed: int, turn: Turn) -> tuple[np.ndarray, DrawnViews]:
        """Return the number of each image's view [B], and what is shown; `seed`: the epoch's."""
        rows, passes, repeats = plan.places, plan.passes, plan.repeats
        if self.stored is None:
            # An image that is shown again is shown in another view.
            return np.zeros(len(rows), np.int64), drawing.draw(seed, rows, 0 if passes is None else passes)
        if passes is None or repeats is None:
            views = stored_views(turn.seed, turn.epoch, rows, self.stored.each)
        else:
            views, times = np.empty(len(rows), np.int64), (turn.epoch - 1) * repeats + passes
            for time in np.unique(times):
                here = times == time
                views[here] = stored_views(turn.seed, int(time) + 1, rows[here], self.stored.each)
        return views, drawing.draw(self.stored.seed, rows, views)

    def batch(
        self,
        seed: int,
        plan: BatchPlan,
        views: np.ndarray,
        drawn: DrawnViews,
        pixels: Tensor,
        shown: TrainingImages,
        size: int,
    ) -> Batch:
        """Return batches of `size` images as one, given their views in [0, 1], their plan and the epoch's seed."""
        spec, rows = self.source.spec, plan.places
        inputs = normalised(pixels, spec.mean, spec.std)
        # Counters of their own for an image that is shown again.
        counters = rows if plan.passes is None else rows + (plan.passes << 40)
        inputs = self.augmentation.for_student(inputs, seed, plan.number, counters, size)
        labels = self.augmentation.targets(self.source.labels_of(drawn.rows, shown), drawn, self.classes)
        native = pixels if self.with_pixels else None
        return Batch(torch.from_numpy(rows), torch.from_numpy(views), labels, inputs, native)
