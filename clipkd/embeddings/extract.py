"""Extraction: one pass of the teacher over the images of a view set, into the store."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from clipkd import device as devices
from clipkd.artifacts import Draft, building
from clipkd.data.dataset import SPLITS, Dataset
from clipkd.data.pixels import flipped, normalised, planes, square, unit
from clipkd.embeddings.teacher import Teacher
from clipkd.embeddings.views import Sample, ViewSet
from clipkd.errors import DataError, InputError
from clipkd.layout import Embeddings
from clipkd.progress import progress


def extract(store: Embeddings, dataset: Dataset, teacher: Teacher, batch_size: int) -> None:
    """Write the embeddings of a view set, whole or not at all.

    Raises:
        InputError: a class has fewer images than the sample asks for.
        DataError: the teacher gives a value that is not finite or does not fit the store's dtype.
    """
    with building(store.folder, "embeddings", store.identity) as draft:
        passes, start = teacher.forward_passes, time.perf_counter()
        write_sample(draft, store, dataset, teacher, batch_size) if store.views.sample else write_all(
            draft, store, dataset, teacher, batch_size
        )
        seconds, passes = time.perf_counter() - start, teacher.forward_passes - passes
        draft.facts |= {
            "forward_passes": passes,
            "seconds": round(seconds, 3),
            "images_per_second": round(passes / seconds, 2),
            "device": devices.describe(teacher.device)["name"],
            "teacher_parameters": teacher.parameters,
            "teacher_weights_bytes": 4 * teacher.parameters,
            "dataset_content": dataset.content,
            "batch_size": batch_size,
        }


def write_all(draft: Draft, store: Embeddings, dataset: Dataset, teacher: Teacher, batch_size: int) -> None:
    """Write train.npy [N, V, D] and test.npy [M, D]: every image, training images in V views."""
    flips = (False, True) if store.views.flips else (False,)
    for split in SPLITS:
        views = flips if split == "train" else (False,)
        count = len(dataset.labels(split))
        rows = [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
        array = None
        for batch in progress(rows, len(rows), f"{store.dataset.title} {split} through {teacher.spec.title}"):
            images = [dataset.image(split, int(row)) for row in batch]
            for view, flip in enumerate(views):
                vectors = embed(images, np.full(len(batch), flip), store.views, teacher, store.dtype)
                if array is None:
                    shape = (count, len(views), vectors.shape[1]) if split == "train" else (count, vectors.shape[1])
                    path = draft.path / f"{split}.npy"
                    array = np.lib.format.open_memmap(path, mode="w+", dtype=store.dtype, shape=shape)
                array[(batch, view) if split == "train" else batch] = vectors
        assert array is not None
        array.flush()
        draft.facts["hidden_size"] = int(array.shape[-1])


def write_sample(draft: Draft, store: Embeddings, dataset: Dataset, teacher: Teacher, batch_size: int) -> None:
    """Write sample.npy [S, D] and what was drawn: sample-rows, sample-labels, sample-flips."""
    sample = store.views.sample
    assert sample is not None
    generator = np.random.default_rng(sample.seed)
    rows = draw(dataset, sample, generator)
    flips = generator.random(len(rows)) < 0.5
    vectors = []
    starts = range(0, len(rows), batch_size)
    for start in progress(starts, len(starts), f"{store.dataset.title} sample through {teacher.spec.title}"):
        batch = slice(start, start + batch_size)
        images: Iterator[np.ndarray] | list[np.ndarray] = [dataset.image("train", int(row)) for row in rows[batch]]
        if store.views.crop:
            images = [random_crop(image, generator) for image in images]
        vectors.append(embed(list(images), flips[batch], store.views, teacher, store.dtype))
    np.save(draft.path / "sample.npy", np.concatenate(vectors))
    np.save(draft.path / "sample-rows.npy", rows)
    np.save(draft.path / "sample-labels.npy", dataset.train_labels[rows])
    np.save(draft.path / "sample-flips.npy", flips)
    draft.facts["hidden_size"] = int(vectors[0].shape[1])


def draw(dataset: Dataset, sample: Sample, generator: np.random.Generator) -> np.ndarray:
    """Return the rows of the first `per_class` training images of each class in shuffled order, class by class.

    Images that are held out for validation are not drawn.
    """
    order = generator.permutation(dataset.training)
    labels = dataset.train_labels[order]
    drawn = []
    for number, name in enumerate(dataset.classes):
        rows = order[labels == number][: sample.per_class]
        if len(rows) < sample.per_class:
            raise InputError(
                f"class '{name}' of {dataset.spec.title} has {len(rows)} training images, "
                f"fewer than prototypes.per_class = {sample.per_class}"
            )
        drawn.append(rows)
    return np.concatenate(drawn)


def random_crop(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return RandomResizedCrop's region of an image, at the image's own resolution.

    Area 8 to 100 %, aspect ratio 3/4 to 4/3 on a logarithmic scale, ten tries, then the whole image:
    the defaults of torchvision.transforms.RandomResizedCrop, C. Szegedy et al.,
    https://arxiv.org/abs/1409.4842.
    """
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1.0)
        ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        cut_width, cut_height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < cut_width <= width and 0 < cut_height <= height:
            top = generator.integers(0, height - cut_height + 1)
            left = generator.integers(0, width - cut_width + 1)
            return image[top : top + cut_height, left : left + cut_width]
    return image


def embed(images: list[np.ndarray], flips: np.ndarray, views: ViewSet, teacher: Teacher, dtype: str) -> np.ndarray:
    """Return the class tokens [B, D] of 8-bit images, presented as the view set says."""
    inputs = present(images, torch.from_numpy(flips).to(teacher.device), views, teacher)
    with np.errstate(over="ignore"):  # an overflow is an infinity, which is refused below
        vectors = teacher.embed(inputs).cpu().numpy().astype(dtype)
    if not np.isfinite(vectors).all():
        name = teacher.spec.name
        raise DataError(
            f"teacher '{name}' gave an embedding that is not finite in {dtype}; try embeddings.dtype: float32"
        )
    return vectors


def present(images: list[np.ndarray], flips: Tensor, views: ViewSet, teacher: Teacher) -> Tensor:
    """Return the teacher's input [B, 3, S, S]; the order of the steps is what tells view sets apart."""
    if views.resize == "image":
        # The 8-bit image is resized (and rounded), then flipped, then normalised.
        pixels = flipped(stacked(images, teacher.image_size, teacher.device), flips)
        return normalised(pixels, views.mean or teacher.mean, views.std or teacher.std)
    # Flipped and normalised at its own size (or the student's), then resized as a tensor.
    size = views.source_size or images[0].shape[0]
    is_square = all(image.shape[:2] == (size, size) for image in images) or views.source_size is not None
    pixels = flipped(stacked(images, size if is_square else teacher.image_size, teacher.device), flips)
    return teacher.present(pixels, views.mean, views.std)


def stacked(images: list[np.ndarray], size: int, device: torch.device) -> Tensor:
    """Return 8-bit images, resized to a square, as float pixels [B, 3, size, size] in [0, 1]."""
    return unit(planes(np.stack([square(image, size) for image in images])).to(device))
