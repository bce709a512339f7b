"""Class prototypes: one vector a class, a pure function of the stored sample."""

from __future__ import annotations

import numpy as np

from clipkd.artifacts import building, open_artifact
from clipkd.embeddings.vectors import Vectors
from clipkd.layout import Embeddings


def prototypes(vectors: np.ndarray, labels: np.ndarray, classes: int, form: str) -> np.ndarray:
    """Return the class prototypes [C, D], float32.

    `mean`: the mean of a class's embeddings (paper.md, "The three train types"). `unit-mean`: each
    embedding brought to length 1, averaged, and the average brought to length 1.

    Args:
        vectors: embeddings [S, D].
        labels: their class numbers [S].
        classes: C.
        form: `mean` or `unit-mean`.
    """
    vectors = vectors.astype(np.float64)
    if form == "unit-mean":
        vectors = unit_length(vectors)
    means = np.stack([vectors[labels == number].mean(axis=0) for number in range(classes)])
    return (unit_length(means) if form == "unit-mean" else means).astype(np.float32)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [N, D] at length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_prototypes(store: Embeddings, form: str) -> None:
    """Make the prototypes artefact from a stored sample."""
    sample = open_artifact(store.folder, "embeddings", store.identity)
    labels = sample.array("sample-labels")
    classes = int(labels.max()) + 1
    folder, identity = store.prototypes(form)
    with building(folder, "prototypes", identity) as draft:
        means = prototypes(Vectors(sample, "sample")[:], labels, classes, form)
        np.save(draft.path / "prototypes.npy", means)
        draft.facts |= {
            "classes": classes,
            "per_class": int((labels == 0).sum()),
            "dataset_content": sample.facts["dataset_content"],
        }
