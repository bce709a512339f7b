"""Extraction: one pass of the teacher over the images of a view set, into the store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipkd import device as devices
from clipkd.artifacts import MANIFEST, Artifact, Draft, building, open_artifact
from clipkd.data.dataset import SPLITS, Dataset, SplitName
from clipkd.data.pixels import flipped, normalised, planes, square, unit
from clipkd.embeddings import parts
from clipkd.embeddings.teacher import Teacher
from clipkd.embeddings.vectors import Statistics, Writer, grid_of
from clipkd.embeddings.views import REPLAY_SEED, Sample, ViewSet
from clipkd.errors import DataError, InputError
from clipkd.layout import Embeddings
from clipkd.progress import progress, say

Shard = tuple[int, int]


@dataclass(frozen=True)
class Showing:
    """What the teacher is shown for one stored array."""

    split: SplitName
    rows: np.ndarray
    """Images, by their row in the split [N]."""
    flips: np.ndarray
    """Which views are mirrored, bool [N, V]."""
    boxes: np.ndarray | None = None
    """The region of each view: top, left, height, width, int32 [N, V, 4]; None: the whole image."""

    def images(self, dataset: Dataset, places: slice | np.ndarray, view: int) -> list[np.ndarray]:
        """Return one view of the images at `places`, cut to its boxes; not mirrored yet."""
        images = [dataset.image(self.split, int(row)) for row in self.rows[places]]
        if self.boxes is None:
            return images
        return [cut(image, box) for image, box in zip(images, self.boxes[places, view], strict=True)]


def showings(views: ViewSet, dataset: Dataset) -> dict[str, Showing]:
    """Return what the teacher is shown, stored array -> showing; labels decide, no pixel is read.

    Raises:
        InputError: a class has fewer images than the sample asks for.
    """
    if views.replays:
        return {"train": replayed(dataset, views.replays)}
    if views.sample is None:
        flips = {"train": (False, True) if views.flips else (False,), "test": (False,)}
        counts = {split: len(dataset.labels(split)) for split in SPLITS}
        return {
            split: Showing(split, np.arange(counts[split]), np.tile(np.array(flips[split]), (counts[split], 1)))
            for split in SPLITS
        }
    generator = np.random.default_rng(views.sample.seed)
    rows = draw(dataset, views.sample, generator)
    mirrored = generator.random(len(rows)) < 0.5
    boxes = None
    if views.crop:
        boxes = random_boxes(dataset, rows, 1, generator)
    return {"sample": Showing("train", rows, mirrored[:, None], boxes)}


def replayed(dataset: Dataset, count: int) -> Showing:
    """Return `count` random crops of each training image, mirrored at random: a pure function of the images' sizes."""
    generator = np.random.default_rng(REPLAY_SEED)
    rows = np.arange(len(dataset.train_labels))
    flips = generator.random((len(rows), count)) < 0.5
    return Showing("train", rows, flips, random_boxes(dataset, rows, count, generator))


def random_boxes(dataset: Dataset, rows: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return `count` random regions of each training image in `rows`, int32 [N, count, 4]."""
    boxes = np.empty((len(rows), count, 4), dtype=np.int32)
    for place, row in enumerate(rows):
        size = dataset.size("train", int(row))
        for view in range(count):
            boxes[place, view] = random_box(*size, generator)
    return boxes


def extract(
    store: Embeddings, dataset: Dataset, teacher: Teacher, batch_size: int, shard: Shard = (1, 1)
) -> Artifact | None:
    """Write the embeddings of a view set, part by part, and join the parts into the store.

    Parts that an earlier, killed or sharded extraction left are taken over, checked.

    Args:
        store: what to make.
        dataset: the images.
        teacher: who looks at them.
        batch_size: images per teacher pass.
        shard: (i, n), i from 1: make every n-th part only, and join nothing (unless n is 1).

    Returns:
        The opened store; None after one shard of several.

    Raises:
        InputError: a class has fewer images than the sample asks for.
        DataError: the teacher gives a value that is not finite or does not fit the store's dtype.
    """
    shown = showings(store.views, dataset)
    what = f"{store.dataset.title} {' and '.join(shown)} through {teacher.spec.title}"
    planned = parts.plan({name: showing.flips.shape for name, showing in shown.items()})
    mine = planned[shard[0] - 1 :: shard[1]]
    missing = [part for part in mine if not parts.is_there(store, part, dataset.content)]
    if len(missing) < len(mine):
        say(f"{what}: {len(mine) - len(missing)} of {len(mine)} parts are there")
    start, passes = time.perf_counter(), teacher.forward_passes
    batches = [(part, places) for part in missing for places in part.batches(batch_size)]
    steps = iter(progress(batches, len(batches), what))
    for part in missing:
        make_part(store, part, shown[part.array], dataset, teacher, batch_size, steps)
    seconds, passes = time.perf_counter() - start, teacher.forward_passes - passes
    if passes:
        say(f"{what}: {passes:,} views, {passes / seconds:.1f} a second")
    return join(store, planned, shown, dataset, teacher, batch_size) if shard[1] == 1 else None


def make_part(
    store: Embeddings,
    part: parts.Part,
    showing: Showing,
    dataset: Dataset,
    teacher: Teacher,
    batch_size: int,
    steps: Iterator,
) -> None:
    """Run the teacher over one part."""
    start, passes = time.perf_counter(), teacher.forward_passes
    vectors = np.empty((part.stop - part.start, showing.flips.shape[1], teacher.width), dtype=np.float32)
    for places in part.batches(batch_size):
        next(steps)
        here = slice(places.start - part.start, places.stop - part.start)
        for view in range(vectors.shape[1]):
            images = showing.images(dataset, places, view)
            vectors[here, view] = embed(images, showing.flips[places, view], store.views, teacher)
    facts = {
        "seconds": time.perf_counter() - start,
        "forward_passes": teacher.forward_passes - passes,
        "device": devices.describe(teacher.device)["name"],
    }
    parts.save(store, part, dataset.content, vectors, facts)


def join(
    store: Embeddings,
    planned: list[parts.Part],
    shown: dict[str, Showing],
    dataset: Dataset,
    teacher: Teacher,
    batch_size: int,
) -> Artifact:
    """Write the finished parts as one array each: a pure function of their vectors."""
    try:
        opened = [(part, parts.load(store, part, dataset.content)) for part in planned]
        with building(store.folder, "embeddings", store.identity) as draft:
            for name, showing in shown.items():
                write_array(draft, name, showing, [pair for pair in opened if pair[0].array == name], store, dataset)
            facts = [artifact.facts for _, artifact in opened]
            seconds, passes = sum(fact["seconds"] for fact in facts), sum(fact["forward_passes"] for fact in facts)
            draft.facts |= {
                "forward_passes": passes,
                "seconds": round(seconds, 3),
                "images_per_second": round(passes / seconds, 2),
                "device": "; ".join(sorted({fact["device"] for fact in facts})),
                "teacher_parameters": teacher.parameters,
                "teacher_weights_bytes": 4 * teacher.parameters,
                "hidden_size": teacher.width,
                "dataset_content": dataset.content,
                "batch_size": batch_size,
            }
    except (DataError, FileNotFoundError):
        # Another process may have joined the same parts, and removed them.
        if not (store.folder / MANIFEST).exists():
            raise
    parts.remove(store)
    return open_artifact(store.folder, "embeddings", store.identity)


def write_array(draft: Draft, name: str, showing: Showing, opened: list, store: Embeddings, dataset: Dataset) -> None:
    """Write one array, what it shows, and, of training images, mean and deviation of each dimension."""
    statistics = Statistics(artifact.array("vectors") for _, artifact in opened)
    count, views = showing.flips.shape
    shape = (count, views, len(statistics.mean)) if name == "train" else (count, len(statistics.mean))
    writer = Writer(draft.path / f"{name}.npy", shape, store.dtype, grid_of(statistics.low, statistics.high))
    for _, artifact in opened:
        vectors = artifact.array("vectors")
        writer.put(vectors if name == "train" else vectors[:, 0])
    writer.close()
    if not writer.is_finite:
        raise DataError(
            f"teacher '{store.teacher.name}' gave an embedding that is not finite in {store.dtype}; "
            "try embeddings.dtype: int16 or float32"
        )
    if name == "train":
        np.save(draft.path / "train-mean.npy", statistics.mean)
        np.save(draft.path / "train-deviation.npy", statistics.deviation)
    if showing.boxes is not None and name == "train":
        np.save(draft.path / "train-boxes.npy", showing.boxes)
        np.save(draft.path / "train-flips.npy", showing.flips)
    if name == "sample":
        np.save(draft.path / "sample-rows.npy", showing.rows)
        np.save(draft.path / "sample-labels.npy", dataset.train_labels[showing.rows])
        np.save(draft.path / "sample-flips.npy", showing.flips[:, 0])


def draw(dataset: Dataset, sample: Sample, generator: np.random.Generator) -> np.ndarray:
    """Return the rows of the first `per_class` training images of each class in shuffled order (or all), by class.

    Images that are held out for validation are not drawn.
    """
    order = generator.permutation(dataset.training)
    labels = dataset.train_labels[order]
    drawn = []
    for number, name in enumerate(dataset.classes):
        rows = order[labels == number]
        if sample.per_class == "all":
            drawn.append(rows)
            continue
        rows = rows[: sample.per_class]
        if len(rows) < sample.per_class:
            raise InputError(
                f"class '{name}' of {dataset.spec.title} has {len(rows)} training images, "
                f"fewer than prototypes.per_class = {sample.per_class}"
            )
        drawn.append(rows)
    return np.concatenate(drawn)


def random_box(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Return RandomResizedCrop's region of an image: top, left, height, width, in pixels.

    Area 8 to 100 %, aspect ratio 3/4 to 4/3 on a logarithmic scale, ten tries, then the whole image:
    the defaults of torchvision.transforms.RandomResizedCrop, C. Szegedy et al.,
    https://arxiv.org/abs/1409.4842.
    """
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1.0)
        ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        cut_width, cut_height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < cut_width <= width and 0 < cut_height <= height:
            top = generator.integers(0, height - cut_height + 1)
            left = generator.integers(0, width - cut_width + 1)
            return int(top), int(left), cut_height, cut_width
    return 0, 0, height, width


def cut(image: np.ndarray, box: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return a region of an image [H, W, 3], at the image's own resolution."""
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def random_crop(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a random region of an image, as `random_box` draws it."""
    return cut(image, random_box(image.shape[0], image.shape[1], generator))


def embed(images: list[np.ndarray], flips: np.ndarray, views: ViewSet, teacher: Teacher) -> np.ndarray:
    """Return the class tokens [B, D], float32, of 8-bit images, presented as the view set says."""
    inputs = present(images, torch.from_numpy(flips.copy()).to(teacher.device), views, teacher)
    vectors = teacher.embed(inputs).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise DataError(f"teacher '{teacher.spec.name}' gave an embedding that is not finite: are its weights damaged?")
    return vectors


def present(images: list[np.ndarray], flips: Tensor, views: ViewSet, teacher: Teacher) -> Tensor:
    """Return the teacher's input [B, 3, S, S]; the order of the steps is what tells view sets apart."""
    if views.resize == "image":
        # The 8-bit image is resized (and rounded), then flipped, then normalised.
        pixels = flipped(stacked(images, teacher.image_size, teacher.device), flips)
        return normalised(pixels, views.mean or teacher.mean, views.std or teacher.std)
    if views.is_own and not views.crop:
        # Images of one shape together, else one by one: the processor may keep an image's shape until it crops.
        pieces = [unit(planes(image[None])).to(teacher.device) for image in images]
        marks = flips[:, None]
        if len({image.shape for image in images}) == 1:
            pieces, marks = [torch.cat(pieces)], flips[None]
        return torch.cat([teacher.present(flipped(*pair), None, None) for pair in zip(pieces, marks, strict=True)])
    # Flipped and normalised at its own size (or the student's), then resized as a tensor.
    size = views.source_size or images[0].shape[0]
    # Crops are brought to the teacher's size at once, as for a live teacher, whatever size a batch of them has.
    is_even = not views.replays and all(image.shape[:2] == (size, size) for image in images)
    is_square = is_even or views.source_size is not None
    pixels = flipped(stacked(images, size if is_square else teacher.image_size, teacher.device), flips)
    return teacher.present(pixels, views.mean or teacher.mean, views.std or teacher.std)


def stacked(images: list[np.ndarray], size: int, device: torch.device) -> Tensor:
    """Return 8-bit images, resized to a square, as float pixels [B, 3, size, size] in [0, 1]."""
    return unit(planes(np.stack([square(image, size) for image in images])).to(device))
