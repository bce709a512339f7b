"""Class prototypes: a pure function of the stored sample."""

from __future__ import annotations

import numpy as np

from clipkd.core.artifacts import building, open_artifact
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins import prototype_forms
from clipkd.spec.layout import Embeddings


def write_prototypes(store: Embeddings, form: str) -> None:
    """Make the prototypes artefact of a form from a stored sample."""
    sample = open_artifact(store.folder, "embeddings", store.identity)
    labels = sample.array("sample-labels")
    classes = int(labels.max()) + 1
    folder, identity = store.prototypes(form)
    with building(folder, "prototypes", identity) as draft:
        made = prototype_forms.get(form).prototypes(Vectors(sample, "sample")[:], labels, classes)
        for name, array in made.items():
            np.save(draft.path / f"{name}.npy", array)
        counts = np.bincount(labels, minlength=classes)
        draft.facts |= {
            "classes": classes,
            "per_class": [int(counts.min()), int(counts.max())],
            "dataset_content": sample.facts["dataset_content"],
        }
        draft.facts |= {name: sample.facts[name] for name in ("class_names", "templates") if name in sample.facts}
