"""What a teacher is shown: images, mirroring and regions of a view set. Labels, sizes and digests decide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipkd.data.boxes import random_boxes, replayed_views
from clipkd.data.dataset import SPLITS, Dataset, SplitName
from clipkd.data.image_digests import counters
from clipkd.data.thumbnails import thumbnail_sizes
from clipkd.spec.views import REPLAY_SEED, ImportedViews, Sample, ViewSet


@dataclass(frozen=True)
class ViewPlan:
    """What the teacher is shown for one stored array."""

    split: SplitName
    rows: np.ndarray
    """Images, by their row in the split [N]."""
    flips: np.ndarray
    """Which views are mirrored, bool [N, V]; of views that a recipe draws the shape alone counts."""
    boxes: np.ndarray | None = None
    """The region of each view: top, left, height, width, int32 [N, V, 4]; None: the whole image."""


def view_plans(
    views: ViewSet | ImportedViews, dataset: Dataset, among: np.ndarray | None = None
) -> dict[str, ViewPlan]:
    """Return what the teacher is shown, by the name of the stored array.

    Args:
        views: how images are presented.
        dataset: for its labels.
        among: the training images that a sample is drawn from [K]; None: all that are not held out.
    """
    if isinstance(views, ViewSet) and views.augment:
        count = len(dataset.train_labels)
        return {"train": ViewPlan("train", np.arange(count), np.broadcast_to(False, (count, views.replays)))}
    if isinstance(views, ViewSet) and views.replays:
        return {"train": replayed(views, dataset)}
    if views.sample is None:
        flips = {"train": (False, True) if views.flips else (False,), "test": (False,)}
        counts = {split: len(dataset.labels(split)) for split in SPLITS}
        return {
            split: ViewPlan(split, np.arange(counts[split]), np.tile(np.array(flips[split]), (counts[split], 1)))
            for split in SPLITS
            if split == "train" or counts[split]  # of images without any label, none are there to test on
        }
    generator = np.random.default_rng(views.sample.seed)
    rows = draw(dataset, views.sample, generator, among)
    mirrored = (generator.random(len(rows)) < 0.5) & views.mirrors
    boxes = random_boxes(dataset.sizes("train")[rows], generator)[:, None] if views.crop else None
    return {"sample": ViewPlan("train", rows, mirrored[:, None], boxes)}


def replayed(views: ViewSet, dataset: Dataset) -> ViewPlan:
    """Return random crops of each training image, some mirrored where the views are; the image alone decides."""
    assert views.thumbnails is not None
    sizes = thumbnail_sizes(dataset.sizes("train"), views.thumbnails)
    images = counters(dataset.digests("train"))
    boxes, flips = replayed_views(sizes, images, views.replays, REPLAY_SEED, views.mirrors)
    return ViewPlan("train", np.arange(len(sizes)), flips, boxes)


def draw(
    dataset: Dataset, sample: Sample, generator: np.random.Generator, among: np.ndarray | None = None
) -> np.ndarray:
    """Return the rows of the first `per_class` training images of each class in shuffled order, by class.

    All where there are fewer (`small_classes` says it). Images that are held out for validation are not drawn, nor any
    that are not `among` those given.
    """
    order = generator.permutation(dataset.labelled_training)
    order = order if among is None else order[np.isin(order, among)]
    labels = dataset.train_labels[order]
    drawn = []
    for number in range(len(dataset.classes)):
        rows = order[labels == number]
        drawn.append(rows if sample.per_class == "all" else rows[: sample.per_class])
    return np.concatenate(drawn)


def small_classes(dataset: Dataset, sample: Sample, among: np.ndarray | None = None) -> str:
    """Return what to say where classes have fewer images than a sample asks for; "" where none has."""
    rows = dataset.labelled_training if among is None else np.intersect1d(dataset.labelled_training, among)
    counts = np.bincount(dataset.train_labels[rows], minlength=len(dataset.classes))
    if sample.per_class == "all" or counts.min() >= sample.per_class:
        return ""
    few = int((counts < sample.per_class).sum())
    least = int(counts.argmin())
    return (
        f"{dataset.spec.title}: {few} of {len(counts)} classes have fewer than {sample.per_class} training images for "
        f"prototypes (prototypes.per_class, without those held out); all of theirs are used, the fewest "
        f"{counts[least]} of '{dataset.classes[least]}'"
    )
