"""Extraction: one pass of the teacher over the images of a view set, into the store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipkd.core import device as devices
from clipkd.core.artifacts import MANIFEST, Artifact, building, open_artifact
from clipkd.core.errors import DataError
from clipkd.core.progress import progress, say
from clipkd.data.augmentation import Augmentation
from clipkd.data.boxes import scaled
from clipkd.data.currency import is_of
from clipkd.data.dataset import Dataset
from clipkd.data.image_digests import counters
from clipkd.data.pixels import flipped, normalised, unit
from clipkd.data.resampling import resized
from clipkd.data.residency import Streamed
from clipkd.data.thumbnails import thumbnail, thumbnail_sizes
from clipkd.embeddings import parts
from clipkd.embeddings.earlier import DIGESTS, SIZE, Earlier, earlier, keys_of
from clipkd.embeddings.enlargement import say_enlarged
from clipkd.embeddings.store import write_array
from clipkd.embeddings.teacher import Teacher, not_finite
from clipkd.embeddings.view_plans import ViewPlan, small_classes, view_plans
from clipkd.embeddings.weights_sha256 import as_fact
from clipkd.spec.layout import Embeddings
from clipkd.spec.views import REPLAY_SEED, ViewSet

Shard = tuple[int, int]


def extract(
    store: Embeddings, dataset: Dataset, teacher: Teacher, batch_size: int, shard: Shard = (1, 1)
) -> Artifact | None:
    """Write the embeddings of a view set, part by part, and join the parts into the store.

    Parts that an earlier, killed or sharded extraction left are taken over, checked. What another process is making
    at this moment is waited for: no image goes through the teacher twice. Nor does one that the store at this place,
    or a part of it, has vectors of from when the dataset was another; that store stays until the new one is complete.

    Args:
        store: what to make.
        dataset: the images.
        teacher: who looks at them.
        batch_size: images per teacher pass.
        shard: (i, n), i from 1: make every n-th part only, and join nothing (unless n is 1).

    Returns:
        The opened store; None after one shard of several.

    Raises:
        DataError: the teacher gives a value that is not finite or does not fit the store's dtype; there are parts
            that were made with other weights.
    """
    say_enlarged(dataset, teacher)
    plans = view_plans(store.views, dataset)
    if store.views.sample is not None and (said := small_classes(dataset, store.views.sample)):
        say(said)
    what = f"{store.dataset.title} {' and '.join(plans)} through {teacher.spec.title}"
    planned = parts.plan({name: plan.flips.shape for name, plan in plans.items()})
    parts.refuse_other_weights(store, planned, dataset.content, teacher.weights_sha256)
    mine = planned[shard[0] - 1 :: shard[1]]
    missing = [part for part in mine if not parts.is_there(store, part, dataset.content)]
    if len(missing) < len(mine):
        say(f"{what}: {len(mine) - len(missing)} of {len(mine)} parts are there")
    before = earlier(store, plans, dataset, teacher.width, teacher.weights_sha256) if missing else None
    if before is not None:
        say(f"{what}: {len(before):,} of {sum(len(one.rows) for one in plans.values()):,} images were embedded before")
    start, passes = time.perf_counter(), teacher.forward_passes
    batches = sum(-(-len(places_of(part, before)) // batch_size) for part in missing)
    steps = iter(progress(range(batches), batches, what))
    keys = {name: keys_of(name, plans[name], dataset) for name in {part.array for part in missing}}
    for part in parts.taken(store, missing, dataset.content):
        make_part(store, part, plans[part.array], keys[part.array], dataset, teacher, batch_size, steps, before)
    seconds, passes = time.perf_counter() - start, teacher.forward_passes - passes
    if passes:
        say(f"{what}: {passes:,} views, {passes / seconds:.1f} a second")
    if shard[1] > 1:
        return None
    if is_of(store.folder, dataset.content):  # another process was here
        parts.remove(store)
        return open_artifact(store.folder, "embeddings", store.identity)
    return join(store, planned, plans, dataset, teacher, batch_size)


def make_part(
    store: Embeddings,
    part: parts.Part,
    plan: ViewPlan,
    keys: np.ndarray,
    dataset: Dataset,
    teacher: Teacher,
    batch_size: int,
    steps: Iterator,
    before: Earlier | None,
) -> None:
    """Run the teacher over one part, its images in the order of their place on the disk; not over those from before."""
    start, passes = time.perf_counter(), teacher.forward_passes
    vectors = np.empty((part.stop - part.start, plan.flips.shape[1], teacher.width), dtype=np.float32)
    places = places_of(part, before)
    places = places[np.argsort(plan.rows[places], kind="stable")]
    for here, embeddings in embed_views(plan, places, store.views, dataset, teacher, batch_size):
        next(steps)
        vectors[here - part.start] = embeddings
    facts = {
        "seconds": time.perf_counter() - start,
        "forward_passes": teacher.forward_passes - passes,
        "device": devices.describe(teacher.device)["name"],
    } | as_fact(teacher.weights_sha256)
    if before is not None:
        facts = with_earlier(facts, before.put(part.array, slice(part.start, part.stop), vectors))
    parts.save(store, part, dataset.content, vectors, keys[part.start : part.stop], facts)


def places_of(part: parts.Part, before: Earlier | None) -> np.ndarray:
    """Return the places of a part that have no vectors from before."""
    places = np.arange(part.start, part.stop)
    return places if before is None else places[before.lacks(part.array, slice(part.start, part.stop))]


def with_earlier(facts: dict[str, Any], taken: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a part together with those of its rows from before: what all of its vectors have cost."""
    if not taken["taken_over"]:
        return facts
    added = {name: facts[name] + taken[name] for name in ("seconds", "forward_passes")}
    devices_of = {taken["device"], *([facts["device"]] if facts["forward_passes"] else [])}
    return facts | taken | added | {"device": "; ".join(sorted(devices_of))}


def join(
    store: Embeddings,
    planned: list[parts.Part],
    plans: dict[str, ViewPlan],
    dataset: Dataset,
    teacher: Teacher,
    batch_size: int,
) -> Artifact:
    """Write the finished parts as one array each: a pure function of their vectors."""
    try:
        parts.refuse_other_weights(store, planned, dataset.content, teacher.weights_sha256)  # shards came meanwhile
        opened = [(part, parts.load(store, part, dataset.content)) for part in planned]
        is_replaced = (store.folder / MANIFEST).exists()
        with building(store.folder, "embeddings", store.identity, replace=is_replaced) as draft:
            for name, plan in plans.items():
                mine = [artifact for part, artifact in opened if part.array == name]
                carried = max(artifact.facts.get("carried", 0.0) for artifact in mine)
                write_array(draft, name, plan, partial(vectors_of, mine), store, dataset, carried)
                np.save(draft.path / f"{name}{DIGESTS}", dataset.digests(plan.split)[plan.rows])
            facts = [artifact.facts for _, artifact in opened]
            seconds, passes = sum(fact["seconds"] for fact in facts), sum(fact["forward_passes"] for fact in facts)
            draft.facts |= {
                "forward_passes": passes,
                "seconds": round(seconds, 3),
                "images_per_second": round(passes / seconds, 2),
                "device": "; ".join(sorted({name for fact in facts for name in fact["device"].split("; ")})),
                **({"taken_over": taken} if (taken := sum(fact.get("taken_over", 0) for fact in facts)) else {}),
                "teacher_parameters": teacher.parameters,
                "teacher_weights_bytes": 4 * teacher.parameters,
                "hidden_size": teacher.width,
                "dataset_content": dataset.content,
                SIZE: dataset.spec.image_size,
                "batch_size": batch_size,
            } | as_fact(teacher.weights_sha256)
    except (DataError, FileNotFoundError):
        # Another process may have joined the same parts, and removed them.
        if not is_of(store.folder, dataset.content):
            raise
    parts.remove(store)
    return open_artifact(store.folder, "embeddings", store.identity)


def vectors_of(opened: list[Artifact]) -> Iterator[np.ndarray]:
    """Yield the vectors [n, V, D] of each of the opened parts."""
    return (part.array("vectors") for part in opened)


def embed_views(
    plan: ViewPlan, places: np.ndarray, views: ViewSet, dataset: Dataset, teacher: Teacher, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places [B] of each batch and what the teacher says of every view of its images, float32 [B, V, D]."""
    if views.augment is not None:
        yield from embed_drawn(plan, places, views, dataset, teacher, batch_size)
        return
    images = Streamed(dataset.images(plan.split), teacher.device)
    batches = (places[start : start + batch_size] for start in range(0, len(places), batch_size))
    for here, flat, starts in images.over(batches, lambda here: plan.rows[here]):
        sizes = images.sizes[plan.rows[here]]
        embeddings = np.empty((*plan.flips[here].shape, teacher.width), dtype=np.float32)
        for view in range(embeddings.shape[1]):
            boxes = None if plan.boxes is None else plan.boxes[here, view].astype(np.int64)
            inputs = teacher_inputs(flat, starts, sizes, boxes, plan.flips[here, view], views, dataset, teacher)
            embeddings[:, view] = teacher.embed(inputs).cpu().numpy()
        if not np.isfinite(embeddings).all():
            raise DataError(not_finite(teacher.spec, teacher.precision))
        yield here, embeddings


def embed_drawn(
    plan: ViewPlan, places: np.ndarray, views: ViewSet, dataset: Dataset, teacher: Teacher, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield as `embed_views`, of views that a recipe draws: each is made as for a student, and with its partners."""
    images, augmentation = Streamed(dataset.images(plan.split), teacher.device), augmentation_of(views, dataset)
    batches = (places[start : start + batch_size] for start in range(0, len(places), batch_size))
    items = (
        (here, view, augmentation.draw(REPLAY_SEED, plan.rows[here], view))
        for here in batches
        for view in range(views.replays)
    )
    mean, std = views.mean or teacher.mean, views.std or teacher.std
    for (here, view, drawn), flat, starts in images.over(items, lambda item: item[2].rows):
        if view == 0:
            embeddings = np.empty((len(here), views.replays, teacher.width), dtype=np.float32)
        if views.thumbnails is not None:
            flat, starts = shrunk(flat, starts, images.sizes[drawn.rows], views.thumbnails)
        inputs = teacher.present(augmentation.make(drawn, flat, starts), mean, std)
        embeddings[:, view] = teacher.embed(inputs).cpu().numpy()
        if view == views.replays - 1:
            if not np.isfinite(embeddings).all():
                raise DataError(not_finite(teacher.spec, teacher.precision))
            yield here, embeddings


def augmentation_of(views: ViewSet, dataset: Dataset) -> Augmentation:
    """Return what draws the views of a set."""
    assert views.augment is not None
    assert views.augment != "auto"
    assert views.source_size is not None
    sizes = dataset.sizes("train")
    sizes = sizes if views.thumbnails is None else thumbnail_sizes(sizes, views.thumbnails)
    images = counters(dataset.digests("train"))
    return Augmentation(views.augment, dataset.spec, views.source_size, sizes, dataset.training, images)


def teacher_inputs(
    flat: Tensor,
    starts: np.ndarray,
    sizes: np.ndarray,
    boxes: np.ndarray | None,
    flips: np.ndarray,
    views: ViewSet,
    dataset: Dataset,
    teacher: Teacher,
) -> Tensor:
    """Return the teacher's input [B, 3, S, S]; the order of the steps is what tells view sets apart.

    Args:
        flat: pixels of the images, end to end, on the teacher's device.
        starts: where in `flat` each image begins [B].
        sizes: their heights and widths [B, 2].
        boxes: the region of each that is shown [B, 4]; None: all of it.
        flips: which are mirrored, bool [B].
        views: how they are presented.
        dataset: for the size of its images, where they have one.
        teacher: for its input size and normalisation.
    """
    mirrored = torch.from_numpy(flips).to(teacher.device)
    if views.resize == "image":
        # The 8-bit image is resized (and rounded), then flipped, then normalised.
        pixels = unit(flipped(resized(flat, starts, sizes, teacher.image_size, boxes), mirrored))
        return normalised(pixels, views.mean or teacher.mean, views.std or teacher.std)
    if views.is_own and boxes is None:
        return as_processed(flat, starts, sizes, flips, teacher)
    # Flipped and normalised at its own size (or the student's), then resized as a tensor. What has no size that all
    # share is brought to the teacher's as an 8-bit image, as for a live teacher.
    own = dataset.spec.image_size if boxes is None else None
    size = views.source_size or own or teacher.image_size
    if views.thumbnails is not None and boxes is not None:
        small = thumbnail_sizes(sizes, views.thumbnails)
        if views.source_size is not None:
            flat, starts = shrunk(flat, starts, sizes, views.thumbnails)
            sizes = small
        else:
            boxes = scaled(boxes, small, sizes)
    mean, std = views.mean or teacher.mean, views.std or teacher.std
    return teacher.present(unit(flipped(resized(flat, starts, sizes, size, boxes), mirrored)), mean, std)


def as_processed(flat: Tensor, starts: np.ndarray, sizes: np.ndarray, flips: np.ndarray, teacher: Teacher) -> Tensor:
    """Return whole images [B, 3, S, S] as the teacher's image processor presents them, those of a shape together."""
    shapes = [(int(height), int(width)) for height, width in sizes]
    inputs = torch.empty(len(shapes), 3, teacher.image_size, teacher.image_size, device=flat.device)
    for height, width in dict.fromkeys(shapes):
        here = [place for place, shape in enumerate(shapes) if shape == (height, width)]
        images = [flat[starts[place] : starts[place] + height * width * 3].view(height, width, 3) for place in here]
        pixels = unit(torch.stack(images).permute(0, 3, 1, 2))
        marks = torch.from_numpy(flips[here]).to(flat.device)
        inputs[here] = teacher.present(flipped(pixels, marks), None, None)
    return inputs


def shrunk(flat: Tensor, starts: np.ndarray, sizes: np.ndarray, side: int) -> tuple[Tensor, np.ndarray]:
    """Return images as thumbnails: pixels that lie end to end, and where each image begins."""
    pixels = flat.cpu().numpy()
    images = [
        thumbnail(pixels[start : start + height * width * 3].reshape(height, width, 3), side).ravel()
        for start, (height, width) in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    lengths = np.array([len(image) for image in images])
    return torch.from_numpy(np.concatenate(images)).to(flat.device), lengths.cumsum() - lengths
