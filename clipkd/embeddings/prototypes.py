"""Class prototypes: a pure function of the stored sample."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clipkd.core.artifacts import MANIFEST, Artifact, building, open_artifact
from clipkd.core.errors import DataError
from clipkd.data.dataset import Dataset
from clipkd.data.labelled import evenly, labelled_rows
from clipkd.embeddings.vectors import Vectors
from clipkd.embeddings.weights_sha256 import FACT
from clipkd.plugins import prototype_forms
from clipkd.spec.layout import Embeddings, Labelled

SHOWN = 5
"""Classes that a message names."""
OTHER_FORM = "choose another prototypes.form, or look at this class's images"


def sampled(store: Artifact, labelled: Labelled | None, dataset: Dataset | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors [S, D] that prototypes are made of, and their class numbers [S].

    Args:
        store: a stored sample, or embeddings of every image.
        labelled: which of every image's are taken; the images themselves, not mirrored. None: it is a sample.
        dataset: for the labels, beside `labelled`.
    """
    if labelled is None:
        return Vectors(store, "sample")[:], store.array("sample-labels")
    assert dataset is not None
    rows = labelled_rows(dataset, labelled.few.count, labelled.few.seed).training
    if labelled.per_class != "all":
        counts = np.bincount(dataset.train_labels[rows]).clip(max=labelled.per_class)
        rows = evenly(dataset.train_labels, rows, counts.sum(), labelled.few.seed)
    return Vectors(store, "train")[rows, 0], dataset.train_labels[rows]


def write_prototypes(
    store: Embeddings, form: str, labelled: Labelled | None = None, dataset: Dataset | None = None
) -> None:
    """Make the prototypes artefact of a form from a stored sample, or of labelled images (see `sampled`)."""
    sample = open_artifact(store.folder, "embeddings", store.identity)
    vectors, labels = sampled(sample, labelled, dataset)
    classes = len(dataset.classes) if dataset else int(labels.max()) + 1
    folder, identity = store.prototypes(form, labelled)
    with building(folder, "prototypes", identity, replace=(folder / MANIFEST).exists()) as draft:
        made = prototype_forms.get(form).prototypes(vectors, labels, classes)
        if wrong := without_direction(made):
            raise DataError(f"teacher '{store.teacher.name}': {wrong} made from {store.folder}; {OTHER_FORM}")
        for name, array in made.items():
            np.save(draft.path / f"{name}.npy", array)
        counts = np.bincount(labels, minlength=classes)
        draft.facts |= {
            "classes": classes,
            "per_class": [int(counts.min()), int(counts.max())],
            "dataset_content": sample.facts["dataset_content"],
        }
        draft.facts |= {name: sample.facts[name] for name in ("class_names", "templates", FACT) if name in sample.facts}


def without_direction(made: Mapping[str, np.ndarray]) -> str | None:
    """Return what is wrong with the arrays of a form, [C, D] or [C, P, D], in words; None: nothing.

    A prototype of length 0 has no direction, and so no cosine with anything.
    """
    for name, array in made.items():
        wrong = ~np.isfinite(array).all(axis=-1)
        if name == "prototypes":
            wrong |= ~array.any(axis=-1)
        if wrong.any():
            classes = np.flatnonzero(wrong.reshape(len(array), -1).any(axis=1))
            listed = ", ".join(map(str, classes[:SHOWN])) + (", ..." if len(classes) > SHOWN else "")
            return f"{name} of class {listed} (counted from 0) are zero or not finite,"
    return None
