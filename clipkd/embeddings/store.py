"""One array of an embedding store, written with what is known of it. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from clipkd.core.artifacts import Draft
from clipkd.core.errors import DataError
from clipkd.core.progress import say
from clipkd.data.dataset import Dataset
from clipkd.embeddings.vectors import Statistics, exceptions, write_vectors
from clipkd.embeddings.view_plans import ViewPlan
from clipkd.spec.layout import Embeddings


def write_array(
    draft: Draft,
    name: str,
    plan: ViewPlan,
    pieces: Callable[[], Iterable[np.ndarray]],
    store: Embeddings,
    dataset: Dataset,
    carried: float = 0.0,
) -> None:
    """Write one array, what it shows, and, of training images, mean and deviation of each dimension.

    Args:
        draft: the store.
        name: the array's.
        plan: which images it is of, and which views of them.
        pieces: gives the vectors [n, V, D], from the first to the last, each time it is called.
        store: what is made.
        dataset: for the labels of a sample.
        carried: as for `write_vectors`.

    Raises:
        DataError: a vector does not fit the store's format.
    """
    statistics = Statistics(pieces())
    count, views = plan.flips.shape
    shape = (count, views, len(statistics.mean)) if name == "train" else (count, len(statistics.mean))

    def shaped() -> Iterable[np.ndarray]:
        return (piece if name == "train" else piece[:, 0] for piece in pieces())

    what = f"{store.dataset.title} {name} through {store.teacher.title}"
    try:
        write_formatted(draft, name, shape, store.dtype, shaped, statistics, what, carried)
    except DataError as error:
        raise DataError(f"teacher '{store.teacher.name}': {error}") from None
    if name == "train":
        np.save(draft.path / "train-mean.npy", statistics.mean)
        np.save(draft.path / "train-deviation.npy", statistics.deviation)
    if plan.boxes is not None and name == "train":
        np.save(draft.path / "train-boxes.npy", plan.boxes)
        np.save(draft.path / "train-flips.npy", plan.flips)
    if name == "sample":
        counts = np.bincount(dataset.train_labels[plan.rows])
        draft.facts["per_class"] = [int(counts.min()), int(counts.max())]
        np.save(draft.path / "sample-rows.npy", plan.rows)
        np.save(draft.path / "sample-labels.npy", dataset.train_labels[plan.rows])
        np.save(draft.path / "sample-flips.npy", plan.flips[:, 0])


def write_sample(draft: Draft, vectors: np.ndarray, labels: np.ndarray, dtype: str, what: str) -> None:
    """Write vectors [S, D] of class numbers [S] as a sample of no images; `what` they are, for messages."""
    write_formatted(draft, "sample", vectors.shape, dtype, lambda: [vectors], Statistics([vectors]), what)
    np.save(draft.path / "sample-labels.npy", labels)


def write_formatted(
    draft: Draft,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    pieces: Callable[[], Iterable[np.ndarray]],
    statistics: Statistics,
    what: str,
    carried: float = 0.0,
) -> None:
    """Write an array in a format that holds it, as a fact of the store; say where that is not the one asked for."""
    facts = write_vectors(draft.path / f"{name}.npy", shape, dtype, pieces, statistics, carried)
    draft.facts.setdefault("formats", {})[name] = facts
    if said := exceptions(facts, what, math.prod(shape[:-1])):
        say(said)
