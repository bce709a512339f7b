"""Labelled images: whose labels a run may see, and which images its epochs show.

`labels: N` takes N of a dataset's labelled images, evenly over the classes and by the run's seed. A fifth of them
chooses epochs and probes; the rest is trained on. The choice is by counter: of two numbers the smaller one's images are
among the larger one's. No labels beside these are in reach of what trains (`TrainingImages.labels`). No torch here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from clipkd.core.errors import InputError
from clipkd.core.unlabelled import UNLABELLED, few_held_out
from clipkd.data.counters import uniforms
from clipkd.data.dataset import Dataset

IMAGES, CLASSES = 21, 22
"""Second halves of the keys, so that no two purposes share numbers."""


class Labelled(NamedTuple):
    """Rows of `train` whose labels may be seen, int64, ascending."""

    training: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True)
class TrainingImages:
    """What an epoch of a run shows, and the labels that it may see."""

    labels: np.ndarray
    """Class numbers of all rows of `train`, int64 [N]; UNLABELLED where the run must not know it."""
    labelled: np.ndarray
    """Rows with a label that are trained on."""
    unlabelled: np.ndarray
    """Rows without one that are trained on; none where nothing could be learnt from them."""
    count: int
    """Images of an epoch: each unlabelled one once, labelled ones as often as it takes."""

    @property
    def rows(self) -> np.ndarray:
        """The images of an epoch, each once, ascending."""
        return np.union1d(self.labelled, self.unlabelled)


def labelled_rows(dataset: Dataset, count: int | None = None, seed: int = 0) -> Labelled:
    """Return whose labels may be seen: all that there are, or `count` of them.

    Args:
        dataset: the packed dataset.
        count: labelled images, those for validation included.
        seed: chooses them.

    Raises:
        InputError: there are not so many, or too few for one of each class to train on.
    """
    known = dataset.train_labels >= 0
    parts = Labelled(*(rows[known[rows]] for rows in (dataset.training, dataset.validation)))
    if count is None:
        return parts
    numbers = divided(count, len(parts.training), len(parts.validation), len(dataset.classes), dataset.spec.title)
    return Labelled(
        evenly(dataset.train_labels, parts.training, numbers[0], seed),
        # From the other end, so that what is left over in both parts is not of the same classes.
        evenly(dataset.train_labels, parts.validation, numbers[1], seed, from_last_class=True),
    )


def divided(count: int, training: int, validation: int, classes: int, title: str) -> tuple[int, int]:
    """Return how many of `count` labelled images are trained on, and how many are held out.

    Args:
        count: labels to be seen.
        training, validation: labelled images that there are, of both kinds.
        classes: how many there are.
        title: the dataset's.

    Raises:
        InputError: as for `labelled_rows`.
    """

    def held_out_of(labels: int) -> int:
        return min(few_held_out(labels), validation)

    if not validation:
        raise InputError(f"labels: {count}: no labelled image of {title} is held out for validation")
    held_out = held_out_of(count)
    kept, labels = count - held_out, training + validation
    if kept > training:
        most = max(number for number in range(training, labels + 1) if number - held_out_of(number) <= training)
        raise InputError(
            f"labels: {count}: {title} has {labels:,} labelled images, {validation:,} of them held out for "
            f"validation: {most:,} labels at most, or 'all'"
        )
    if kept < classes or not held_out:
        least = next(n for n in range(classes, labels + 1) if held_out_of(n) and n - held_out_of(n) >= classes)
        raise InputError(
            f"labels: {count}: a fifth is held out for validation, and {title} has {classes} classes, "
            f"each of which needs an image to train on: {least} or more"
        )
    return kept, held_out


def evenly(labels: np.ndarray, rows: np.ndarray, count: int, seed: int, *, from_last_class: bool = False) -> np.ndarray:
    """Return `count` of the rows, ascending: of each class the same number, to within one, while it has any left.

    The first of each class in a random order of classes, then the second of each, and so on; `from_last_class`: in the
    reverse of that order.
    """
    of_row = labels[rows]
    drawn = uniforms((seed, IMAGES), rows, 1)[0]
    order = np.lexsort((drawn, of_row))
    starts = np.searchsorted(of_row[order], of_row[order])
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.arange(len(rows)) - starts
    among_classes = uniforms((seed, CLASSES), np.arange(labels.max() + 1), 1)[0]
    place_of_class = -among_classes if from_last_class else among_classes
    return np.sort(rows[np.lexsort((place_of_class[of_row], place))[:count]])


def training_images(
    dataset: Dataset, rows: np.ndarray, labelled: np.ndarray, sees_unlabelled: bool, share: float
) -> TrainingImages:
    """Return what an epoch shows.

    Every train type takes the same number of steps: one that learns nothing from unlabelled images sees the labelled
    ones as often as the others see any.

    Args:
        dataset: the packed dataset.
        rows: of `train`, all that may be trained on.
        labelled: those of them whose labels may be seen.
        sees_unlabelled: whether the train type learns from images without a label.
        share: the smallest share of an epoch's images that is labelled, where some are not.
    """
    others = np.setdiff1d(rows, labelled)
    labels = np.full(len(dataset.train_labels), UNLABELLED)
    labels[labelled] = dataset.train_labels[labelled]
    count = images_shown(len(labelled), len(others), share)
    return TrainingImages(labels, labelled, others if sees_unlabelled else others[:0], count)


def images_shown(labelled: int, others: int, share: float) -> int:
    """Return the images of an epoch: each of the others once, labelled ones as often as their share takes."""
    exactly = Fraction(str(share))
    repeats = math.ceil(exactly * others / ((1 - exactly) * max(1, labelled)))
    return others + labelled * max(1, repeats)
