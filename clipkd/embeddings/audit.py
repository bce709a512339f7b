"""Audit: the teacher looks at a sample of images again, and must say what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import MANIFEST, open_artifact, read_manifest
from clipkd.core.fingerprint import fingerprint
from clipkd.data.dataset import Dataset
from clipkd.embeddings.extract import embed_views
from clipkd.embeddings.teacher import Teacher
from clipkd.embeddings.vectors import Vectors
from clipkd.embeddings.view_plans import view_plans
from clipkd.spec.settings import TeacherPrecision
from clipkd.spec.views import (
    POOLING,
    PROTOCOL,
    Sample,
    ViewSet,
    embeddings_identity,
)

LEAST_COSINE = {"float32": 0.9999, "tf32": 0.999, "float16": 0.999, "bfloat16": 0.99}
MOST_ERROR = {"float32": 0.02, "tf32": 0.1, "float16": 0.1, "bfloat16": 0.5}
"""Of a dimension's standard deviation, by the teacher's precision. Two kinds of hardware and stores of float16 stay
far below it; another view does not. TF32 has as many digits as float16."""
MOST_RELATIVE = {"float32": 0.004, "tf32": 0.02, "float16": 0.02, "bfloat16": 0.15}
"""Length of the difference of a vector from the stored one, of its own length. A dimension's deviation is as large as
its outliers make it; the vector itself is not."""
BATCH = 32


@dataclass(frozen=True)
class Verdict:
    """What an audit found in one store."""

    folder: Path
    views: str
    images: int
    """Views that the teacher looked at again, or prompts that it read again."""
    cosine: float
    """The worst between a stored and a fresh vector."""
    error: float
    """The worst of any number, in standard deviations of its dimension."""
    relative: float
    """The worst length of a difference, of the vector's own length."""
    wrong: tuple[str, ...]
    """The views that differ, `train[17] mirrored`, or the prompts."""
    shown: str = "views looked at again"

    @property
    def is_right(self) -> bool:
        return not self.wrong


def stores(folder: Path, dataset: Dataset, teacher: Teacher) -> Iterator[tuple[Path, ViewSet, dict[str, Any]]]:
    """Yield the stores of this very dataset and teacher below `folder`, their views and manifest."""
    for path in sorted(folder.glob(f"[!.]*/{MANIFEST}")):
        manifest = read_manifest(path.parent)
        if manifest["kind"] != "embeddings" or manifest["identity"]["protocol"] != PROTOCOL:
            continue
        stored = manifest["identity"]
        views, precision = views_of(stored["views"]), stored.get("precision", "float32")
        identity = embeddings_identity(dataset.spec, teacher.spec, views, stored["dtype"], precision)
        if fingerprint(identity) == manifest["fingerprint"]:
            yield path.parent, views, identity


def views_of(identity: dict[str, Any]) -> ViewSet:
    """Return the view set that a manifest describes."""
    fields = {name: identity[name] for name in ViewSet.__dataclass_fields__ if name in identity}
    for name in ("mean", "std"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    if fields.get("fill"):
        fields["fill"] = tuple(fields["fill"])
    fields["output"] = next(output for output, words in POOLING.items() if words == identity["pooling"])
    sample = fields["sample"]
    return ViewSet(**fields | {"sample": None if sample is None else Sample(**sample)})


def audit(
    folder: Path, views: ViewSet, identity: dict[str, Any], dataset: Dataset, teacher: Teacher, images: int, seed: int
) -> Verdict:
    """Run the teacher again over views of `images` images of each stored array, drawn by `seed`; compare.

    Raises:
        DataError: the store's bytes are damaged.
    """
    artifact = open_artifact(folder, "embeddings", identity)
    teacher.precision = identity.get("precision", "float32")
    cosines, errors, relatives, wrong, count = [], [], [], [], 0
    generator = np.random.default_rng(seed)
    for name, plan in view_plans(views, dataset).items():
        stored = Vectors(artifact, name)
        places = np.sort(generator.choice(len(plan.rows), min(images, len(plan.rows)), replace=False))
        deviation = deviation_of(stored)
        batches = embed_views(plan, places, views, dataset, teacher, BATCH)
        embeddings = np.concatenate([batch for _, batch in batches])
        for view in range(plan.flips.shape[1]):
            here = stored[places, view] if name == "train" else stored[places]
            cosine, error, relative, bad = compared(here, embeddings[:, view], deviation, teacher.precision)
            of = f" view {view}" if views.replays else ""
            wrong += [f"{name}[{place}]{of or ' mirrored' * bool(plan.flips[place, view])}" for place in places[bad]]
            cosines.append(cosine.min())
            errors.append(error.max())
            relatives.append(relative.max())
            count += len(places)
    what = "every image" if views.sample is None else f"sample of {views.sample.per_class} per class"
    if views.replays:
        what = f"{views.replays} {views.augment or 'crop'} views of each training image"
    worst = float(min(cosines)), float(max(errors)), float(max(relatives))
    return Verdict(folder, what, count, *worst, tuple(wrong))


def compared(
    here: np.ndarray, now: np.ndarray, deviation: np.ndarray, precision: TeacherPrecision
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return of each stored vector [N, D] and what the teacher says now: cosine, worst error in deviations of a
    dimension, length of the difference of the vector's own, and whether it is wrong."""
    cosine = (here * now).sum(axis=1) / np.linalg.norm(here, axis=1) / np.linalg.norm(now, axis=1)
    error = (np.abs(here - now) / deviation).max(axis=1)
    relative = np.linalg.norm(here - now, axis=1) / np.linalg.norm(now, axis=1)
    good = (
        (cosine >= LEAST_COSINE[precision]) & (error <= MOST_ERROR[precision]) & (relative <= MOST_RELATIVE[precision])
    )
    return cosine, error, relative, ~good  # a NaN is not good


def deviation_of(stored: Vectors) -> np.ndarray:
    """Return the standard deviation [D] of stored vectors, from evenly spread rows; never 0."""
    rows = np.unique(np.linspace(0, len(stored) - 1, 1000).astype(int))
    flat = stored[rows].reshape(-1, stored.shape[-1]).astype(np.float64)
    return np.maximum(flat.std(axis=0), 1e-6 * max(1.0, float(np.abs(flat).max())))
