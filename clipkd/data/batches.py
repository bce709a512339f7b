"""Batches: images on the training device as 8-bit numbers, augmented there.

A source yields the batches of an epoch in an order and with flips and crops drawn from one
generator, so that a seed fixes them all. What is in a batch depends on the generator's state before
the epoch and on the batch's number alone: an epoch can be resumed at any step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from clipkd.core.device import sent
from clipkd.data.boxes import random_boxes, scaled
from clipkd.data.dataset import SPLITS, Dataset, SplitName
from clipkd.data.labelled import TrainingImages
from clipkd.data.pixels import flipped, normalised, unit
from clipkd.data.resampling import resized
from clipkd.data.residency import PixelStore, pixel_store
from clipkd.data.thumbnails import Thumbnails
from clipkd.plugins.datasets import DatasetSpec

PREPARED = 1 << 20
"""Pixels of images that a GPU prepares at once. Each kernel costs the host as much for one small batch as for many."""


@dataclass
class Batch:
    """What one step trains on."""

    rows: Tensor
    """Row numbers in the dataset's training split [B], on the CPU."""
    views: Tensor
    """Which stored view of each image, int64 [B], on the CPU; of those that only flips tell apart, 1 is mirrored."""
    labels: Tensor
    """Class numbers [B], UNLABELLED where not known; or shares of the classes [B, C] where images are mixed."""
    inputs: Tensor
    """The student's input, normalised [B, 3, S, S]."""
    native: Tensor | None = None
    """The same views in [0, 1], at the images' own resolution where the student sees flips and the dataset's own crops
    alone; only for a live teacher."""

    def part(self, here: slice) -> Batch:
        """Return some of the batch's images."""
        native = None if self.native is None else self.native[here]
        return Batch(self.rows[here], self.views[here], self.labels[here], self.inputs[here], native)

    def split(self, size: int) -> Iterator[Batch]:
        """Yield parts of `size` images, the last one with what is left."""
        for begin in range(0, len(self.rows), size):
            yield self.part(slice(begin, begin + size))


class Turn(NamedTuple):
    """An epoch among those of its run."""

    seed: int = 0
    """The run's."""
    epoch: int = 1
    """From 1."""


class Batches(Protocol):
    """A source of training and evaluation batches."""

    @property
    def count(self) -> int:
        """Images of an epoch."""

    def epoch(
        self,
        size: int,
        drop_last: bool,
        generator: torch.Generator,
        start: int = 0,
        turn: Turn | None = None,
        shown: TrainingImages | None = None,
    ) -> Iterator[Batch]:
        """Yield an epoch's batches from number `start` on; whatever it is, the same numbers are drawn.

        `turn`: says which of each image's stored views come in the epoch; None: those of the first. `shown`: the
        images, and whose labels may be seen; None: those that the source was opened with.
        """

    def evaluation(self, split: SplitName, rows: np.ndarray | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs [B, 3, S, S] and labels [B] of a split's rows (None: all), unaugmented."""


@dataclass
class BatchPlan:
    """Which images and views make a batch; on the CPU, before any pixel is read."""

    rows: Tensor
    flips: Tensor
    views: Tensor
    boxes: np.ndarray | None = None
    """The region of each image, in pixels of its thumbnail: top, left, height, width [B, 4]."""
    number: int = 0
    """Of the batch in the epoch; of several, the first one's."""
    passes: np.ndarray | None = None
    """How often each image was shown before in the epoch [B]; None: never."""
    repeats: np.ndarray | None = None
    """How often each is shown in an epoch at most [B]; None: once."""

    @property
    def places(self) -> np.ndarray:
        return self.rows.numpy()

    @classmethod
    def of_several(cls, plans: Sequence[BatchPlan]) -> BatchPlan:
        """Return batches that follow one another as one."""
        if len(plans) == 1:
            return plans[0]

        def joined(name: str) -> np.ndarray | None:
            parts = [getattr(plan, name) for plan in plans]
            return None if parts[0] is None else np.concatenate(parts)

        rows, flips, views = (torch.cat([getattr(plan, name) for plan in plans]) for name in ("rows", "flips", "views"))
        boxes, passes, repeats = joined("boxes"), joined("passes"), joined("repeats")
        return cls(rows, flips, views, boxes, plans[0].number, passes, repeats)


def together(plans: Iterator[BatchPlan], images: PixelStore, side: int, size: int) -> Iterator[BatchPlan]:
    """Yield the plans of the batches that are prepared at once, as one: of `at_once`, the last ones of what is left."""
    count = at_once(images, side, size)
    while several := list(islice(plans, count)):
        yield BatchPlan.of_several(several)


def at_once(images: PixelStore, side: int, size: int) -> int:
    """Return how many batches of `size` images are prepared at once: on a CPU one, where more save nothing.

    Args:
        images: what views are cut from.
        side: of a view, in pixels.
        size: images of a batch.
    """
    if images.device.type == "cpu":
        return 1
    pixels = max(side * side, images.sizes.prod(axis=1).mean())
    return max(1, int(PREPARED / (size * pixels)))


def shuffled(
    shown: TrainingImages, size: int, drop_last: bool, generator: torch.Generator, start: int, mirrors: bool
) -> Iterator[BatchPlan]:
    """Yield the plan of each batch from `start` on: shuffled rows, and which of them are mirrored."""
    rows, times = order(shown, generator)
    # Drawn where nothing is mirrored too: what is drawn after them stays the same.
    flips = (torch.rand(len(rows), generator=generator) < 0.5) & mirrors
    for begin in range(start * size, len(rows), size):
        here = slice(begin, begin + size)
        if not (drop_last and len(rows[here]) < size):
            plan = BatchPlan(rows[here], flips[here], flips[here].long(), number=begin // size)
            if times is not None:
                plan.passes, plan.repeats = times[0][here].numpy(), times[1][here].numpy()
            yield plan


def order(shown: TrainingImages, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return the rows of an epoch in a random order [n], and how often each was shown before and is at most.

    None for these where each is shown once.

    Labelled images come in passes, each in an order of its own, and are spread evenly among unlabelled ones: all
    batches have as many, to within one.
    """
    labelled, others = torch.from_numpy(shown.labelled.copy()), torch.from_numpy(shown.unlabelled.copy())
    many = shown.count - len(others)
    if many == len(labelled) and not (len(labelled) and len(others)):
        every = labelled if len(labelled) else others
        return every[torch.randperm(len(every), generator=generator)], None
    repeats = -(-many // len(labelled))
    drawn = torch.rand(repeats, len(labelled), generator=generator)
    places = (torch.arange(many, dtype=torch.float64) + torch.rand(1, generator=generator).item()) * shown.count / many
    is_labelled = torch.zeros(shown.count, dtype=torch.bool)
    is_labelled[places.long()] = True
    rows, passes = torch.empty(shown.count, dtype=torch.int64), torch.zeros(shown.count, dtype=torch.int64)
    rows[is_labelled] = labelled[drawn.argsort(dim=1).flatten()[:many]]
    passes[is_labelled] = torch.arange(many) // len(labelled)
    rows[~is_labelled] = others[torch.randperm(len(others), generator=generator)]
    return rows, (passes, torch.where(is_labelled, repeats, 1))


def evaluation(
    images: PixelStore, places: np.ndarray, labels: np.ndarray, spec: DatasetSpec, side: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images at `places` as squares of `side` pixels, normalised, and their labels, in batches of `size`."""
    begins = range(0, len(places), size)
    for begin, flat, starts in images.over(begins, lambda begin: places[begin : begin + size]):
        sizes = images.sizes[places[begin : begin + size]]
        piece = torch.from_numpy(labels[begin : begin + size].copy()).to(images.device, non_blocking=True)
        yield normalised(unit(resized(flat, starts, sizes, side)), spec.mean, spec.std), piece


Pixels = tuple[BatchPlan, Tensor, Tensor | None]
"""A batch's plan, and its images for the student and for a live teacher, uint8 [B, 3, S, S]."""


class BatchSource:
    """What both sources share: the training rows, labels, and the making of batches."""

    train: PixelStore
    """The training images, as the student's views are cut from them."""
    native: int | bool | None
    """Whether a live teacher is shown the same views of the images themselves."""

    def __init__(self, dataset: Dataset, shown: TrainingImages, size: int, device: torch.device) -> None:
        self.spec, self.shown, self.size, self.device = dataset.spec, shown, size, device
        self.labels = {split: dataset.labels(split) for split in SPLITS}

    @property
    def count(self) -> int:
        """Images of an epoch."""
        return self.shown.count

    def epoch(
        self,
        size: int,
        drop_last: bool,
        generator: torch.Generator,
        start: int = 0,
        turn: Turn | None = None,
        shown: TrainingImages | None = None,
    ) -> Iterator[Batch]:
        shown = shown or self.shown
        plans = self.plans(size, drop_last, generator, start, shown)
        if not self.native:  # of a live teacher's images there are never more than those of a batch
            plans = together(plans, self.train, self.size, size)
        for plan, inputs, native in self.pixels(plans):
            yield from self.batch(plan, inputs, native, shown).split(size)

    def plans(
        self, size: int, drop_last: bool, generator: torch.Generator, start: int, shown: TrainingImages
    ) -> Iterator[BatchPlan]:
        """Yield the plan of each batch."""
        return shuffled(shown, size, drop_last, generator, start, self.spec.mirrors)

    def pixels(self, plans: Iterator[BatchPlan]) -> Iterator[Pixels]:
        """Yield each plan with its images."""
        raise NotImplementedError

    def batch(self, plan: BatchPlan, inputs: Tensor, native: Tensor | None, shown: TrainingImages) -> Batch:
        """Return a batch, given its images, uint8, for the student and for a live teacher."""
        flips = plan.flips.to(self.device, non_blocking=True)
        inputs = normalised(unit(flipped(inputs, flips)), self.spec.mean, self.spec.std)
        native = None if native is None else unit(flipped(native, flips))
        return Batch(plan.rows, plan.views, self.labels_of(plan.places, shown), inputs, native)

    def labels_of(self, rows: np.ndarray, shown: TrainingImages) -> Tensor:
        """Return the class numbers of training images, on the device; UNLABELLED where they may not be seen."""
        return sent(torch.from_numpy(shown.labels[rows]), self.device)


class FlippedBatches(BatchSource):
    """Whole images, resized for the student and, where the dataset allows it, flipped at random."""

    def __init__(self, dataset: Dataset, shown: TrainingImages, size: int, native: bool, device: torch.device) -> None:
        """Open a dataset.

        Args:
            dataset: the packed dataset.
            shown: the training images to use, and whose labels may be seen.
            size: the student's input side, in pixels.
            native: add the images at their own size, for a live teacher.
            device: where batches go.
        """
        super().__init__(dataset, shown, size, device)
        self.images = {split: pixel_store(dataset.images(split), device, self.spec.title) for split in SPLITS}
        self.train, self.native = self.images["train"], native

    def pixels(self, plans: Iterator[BatchPlan]) -> Iterator[Pixels]:
        for plan, flat, starts in self.train.over(plans, lambda plan: plan.places):
            sizes = self.train.sizes[plan.places]
            native = resized(flat, starts, sizes, int(sizes[0, 0])) if self.native else None
            yield plan, resized(flat, starts, sizes, self.size), native

    def evaluation(self, split: SplitName, rows: np.ndarray | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        places = np.arange(len(self.labels[split])) if rows is None else rows
        return evaluation(self.images[split], places, self.labels[split][places], self.spec, self.size, size)


class CroppedBatches(BatchSource):
    """Random crops of thumbnails, flipped at random where the dataset allows it."""

    def __init__(
        self,
        dataset: Dataset,
        thumbnails: Thumbnails,
        shown: TrainingImages,
        native: int | None,
        device: torch.device,
        replay: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Open a dataset.

        Args:
            dataset: the packed dataset: labels, and images for a live teacher.
            thumbnails: its images at the student's size.
            shown: the training images to use, and whose labels may be seen.
            native: side at which a live teacher sees the same crops, in pixels; None: there is no live teacher.
            device: where batches go.
            replay: boxes [N, V, 4] and flips [N, V] of the only views to use; None: a new view in every epoch.
        """
        super().__init__(dataset, shown, thumbnails.side, device)
        title = f"{self.spec.title} at {self.size} px"
        self.train = pixel_store(thumbnails.train, device, title)
        self.test = pixel_store(thumbnails.test, device, f"{title}, test")
        self.validation = pixel_store(thumbnails.validation, device, f"{title}, validation")
        self.held_out = dataset.validation
        self.large = None if native is None else pixel_store(dataset.images("train"), device, self.spec.title)
        self.native, self.replay = native, replay

    def plans(
        self, size: int, drop_last: bool, generator: torch.Generator, start: int, shown: TrainingImages
    ) -> Iterator[BatchPlan]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        for plan in super().plans(size, drop_last, generator, start, shown):
            crops, places = np.random.default_rng([seed, plan.number]), plan.places
            if self.replay is None:
                plan.boxes = random_boxes(self.train.sizes[places], crops)
            else:
                views = crops.integers(0, self.replay[1].shape[1], len(places))
                plan.boxes, mirrored = (stored[places, views] for stored in self.replay)
                plan.flips, plan.views = torch.from_numpy(mirrored), torch.from_numpy(views)
            yield plan

    def pixels(self, plans: Iterator[BatchPlan]) -> Iterator[Pixels]:
        return self.both(plans) if self.large else self.small(plans)

    def small(self, plans: Iterator[BatchPlan]) -> Iterator[Pixels]:
        """Yield the crops of each batch at the student's size, uint8 [B, 3, S, S]."""
        for plan, flat, starts in self.train.over(plans, lambda plan: plan.places):
            yield plan, resized(flat, starts, self.train.sizes[plan.places], self.size, plan.boxes), None

    def both(self, plans: Iterator[BatchPlan]) -> Iterator[Pixels]:
        """Yield the crops of each batch for the student, and the same regions of the large images for the teacher."""
        assert self.large is not None
        assert self.native is not None
        for (plan, inputs, _), flat, starts in self.large.over(self.small(plans), lambda item: item[0].places):
            assert plan.boxes is not None
            sizes = self.large.sizes[plan.places]
            boxes = scaled(plan.boxes, self.train.sizes[plan.places], sizes)
            yield plan, inputs, resized(flat, starts, sizes, self.native, boxes)

    def evaluation(self, split: SplitName, rows: np.ndarray | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a split's images; of training images there are squares of those held out for validation only."""
        places = np.arange(len(self.labels[split])) if rows is None else rows
        labels = self.labels[split][places]
        if split == "test":
            return evaluation(self.test, places, labels, self.spec, self.size, size)
        found = np.searchsorted(self.held_out, places)
        assert np.array_equal(self.held_out[np.minimum(found, len(self.held_out) - 1)], places)
        return evaluation(self.validation, found, labels, self.spec, self.size, size)
