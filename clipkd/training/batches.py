"""Batches: images on the training device as 8-bit numbers, augmented there.

A source yields the batches of an epoch in an order and with flips and crops drawn from one
generator, so that a seed fixes them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from clipkd.data.dataset import Dataset, SplitName
from clipkd.data.pixels import flipped, normalised, planes, square, squares, unit
from clipkd.embeddings.extract import cut, random_box


@dataclass
class Batch:
    """What one step trains on."""

    rows: Tensor
    """Row numbers in the dataset's training split [B], on the CPU."""
    flips: Tensor
    """Which images are mirrored, bool [B], on the CPU."""
    views: Tensor
    """Which stored view each image is shown in, int64 [B], on the CPU."""
    labels: Tensor
    """Class numbers [B]."""
    inputs: Tensor
    """The student's input, normalised [B, 3, S, S]."""
    native: Tensor | None = None
    """The same views at the images' own resolution, in [0, 1]; only where a live teacher looks."""

    def part(self, here: slice) -> Batch:
        """Return some of the batch's images."""
        native = None if self.native is None else self.native[here]
        rows, flips, views = self.rows[here], self.flips[here], self.views[here]
        return Batch(rows, flips, views, self.labels[here], self.inputs[here], native)


class Batches(Protocol):
    """A source of training and evaluation batches."""

    count: int
    """Training images."""

    def epoch(self, size: int, drop_last: bool, generator: torch.Generator, start: int = 0) -> Iterator[Batch]:
        """Yield an epoch's batches from number `start` on: the same, whatever number it is."""

    def evaluation(self, split: SplitName, rows: np.ndarray | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs [B, 3, S, S] and labels [B] of a split's rows (None: all), unaugmented."""


def order(rows: Tensor, size: int, drop_last: bool, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the shuffled rows [B] of each batch and their flips [B]."""
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    flips = torch.rand(len(rows), generator=generator) < 0.5
    for chosen, mirrored in zip(shuffled.split(size), flips.split(size), strict=True):
        if not (drop_last and len(chosen) < size):
            yield chosen, mirrored


class Resident:
    """Images of one size: the whole dataset lies on the device."""

    def __init__(self, dataset: Dataset, rows: np.ndarray, size: int, native: bool, device: torch.device) -> None:
        """Load a dataset.

        Args:
            dataset: the packed dataset.
            rows: the training rows to use.
            size: the student's input side, in pixels.
            native: also keep the images at their own size, for a live teacher.
            device: where they lie.
        """
        self.spec, self.device = dataset.spec, device
        self.rows, self.count = torch.from_numpy(rows.copy()), len(rows)
        self.images = {split: planes(squares(dataset.images(split), size)).to(device) for split in ("train", "test")}
        self.labels = {split: torch.from_numpy(dataset.labels(split).copy()).to(device) for split in ("train", "test")}
        self.native = planes(np.asarray(dataset.images("train"))).to(device) if native else None

    def inputs(self, images: Tensor) -> Tensor:
        """Return 8-bit images as the student's input."""
        return normalised(unit(images), self.spec.mean, self.spec.std)

    def epoch(self, size: int, drop_last: bool, generator: torch.Generator, start: int = 0) -> Iterator[Batch]:
        for rows, flips in islice(order(self.rows, size, drop_last, generator), start, None):
            here, mirrored = rows.to(self.device), flips.to(self.device)
            native = None if self.native is None else unit(flipped(self.native[here], mirrored))
            inputs = self.inputs(flipped(self.images["train"][here], mirrored))
            yield Batch(rows, flips, flips.long(), self.labels["train"][here], inputs, native)

    def evaluation(self, split: SplitName, rows: np.ndarray | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = np.arange(len(self.labels[split])) if rows is None else rows
        for piece in torch.from_numpy(chosen.copy()).to(self.device).split(size):
            yield self.inputs(self.images[split][piece]), self.labels[split][piece]


class Cropped:
    """Images of several sizes: each view is a random crop, cut from the memory-mapped pixels."""

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        size: int,
        native: int | None,
        device: torch.device,
        replay: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Open a dataset.

        Args:
            dataset: the packed dataset.
            rows: the training rows to use.
            size: the student's input side, in pixels.
            native: side at which a live teacher sees the same crops, in pixels; None: no teacher looks.
            device: where batches go.
            replay: boxes [N, V, 4] and flips [N, V] of the only views that are shown; None: new ones always.
        """
        self.dataset, self.spec, self.device = dataset, dataset.spec, device
        self.rows, self.count = torch.from_numpy(rows.copy()), len(rows)
        self.size, self.native, self.replay = size, native, replay
        self.labels = {split: torch.from_numpy(dataset.labels(split).copy()) for split in ("train", "test")}

    def stack(self, images: list[np.ndarray], size: int) -> Tensor:
        """Return images resized to a square, in [0, 1], on the device."""
        return unit(planes(np.stack([square(image, size) for image in images])).to(self.device))

    def epoch(self, size: int, drop_last: bool, generator: torch.Generator, start: int = 0) -> Iterator[Batch]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        crops = np.random.default_rng(seed)
        for number, (rows, drawn) in enumerate(order(self.rows, size, drop_last, generator)):
            images = [self.dataset.image("train", int(row)) for row in rows]
            if self.replay is None:
                flips, views = drawn, drawn.long()
                boxes = [random_box(image.shape[0], image.shape[1], crops) for image in images]
            else:
                views = torch.from_numpy(crops.integers(0, self.replay[1].shape[1], len(rows)))
                boxes, flipped_too = (stored[rows.numpy(), views.numpy()] for stored in self.replay)
                flips = torch.from_numpy(flipped_too)
            if number < start:
                continue
            regions = [cut(image, box) for image, box in zip(images, boxes, strict=True)]
            mirrored = flips.to(self.device)
            inputs = normalised(flipped(self.stack(regions, self.size), mirrored), self.spec.mean, self.spec.std)
            native = None if self.native is None else flipped(self.stack(regions, self.native), mirrored)
            yield Batch(rows, flips, views, self.labels["train"][rows].to(self.device), inputs, native)

    def evaluation(self, split: SplitName, rows: np.ndarray | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = np.arange(len(self.labels[split])) if rows is None else rows
        for start in range(0, len(chosen), size):
            piece = chosen[start : start + size]
            inputs = self.stack([self.dataset.image(split, int(row)) for row in piece], self.size)
            yield normalised(inputs, self.spec.mean, self.spec.std), self.labels[split][piece].to(self.device)
