"""Zero-shot: a CLIP or SigLIP teacher classifies by its own two towers, from what both have stored.

The Snakefile reads this: no torch before it is needed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from clipkd.core.artifacts import MANIFEST, open_artifact
from clipkd.core.errors import DataError
from clipkd.core.files import read_json
from clipkd.core.top_k import top_k
from clipkd.data.dataset import Dataset
from clipkd.embeddings.families import text_family
from clipkd.embeddings.vectors import Vectors
from clipkd.plugins import teachers
from clipkd.plugins.prototype_forms import unit_length
from clipkd.plugins.teachers import FolderTeacher, TeacherSpec
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Embeddings, Layout

ROWS = 8192
"""Images per piece, so that memory does not grow with the dataset."""


def vision_store(cell: Cell, layout: Layout) -> Embeddings | None:
    """Return the embeddings of every image by the vision tower of the cell's text teacher, where they are stored.

    A store's fingerprint says what it is, whatever name the vision tower has among the teachers.
    """
    store = asked(cell, layout)
    if store is None:
        return None
    places = sorted(store.folder.parent.parent.glob(f"*/{store.folder.name}/{MANIFEST}"))
    return replace(store, folder=places[0].parent) if places else None


def asked(cell: Cell, layout: Layout) -> Embeddings | None:
    """Return the store that zero-shot needs, there or not; None where the cell's teacher reads no names."""
    text = cell.teacher_spec
    if text is None or not text.reads_names or len(cell.by_teacher) > 1:
        return None
    tower = vision_tower(text)
    return layout.full_embeddings(cell, tower) if tower else None


def vision_tower(text: TeacherSpec) -> TeacherSpec | None:
    """Return the vision tower of a text teacher's checkpoint, whose pooler leads to the space that both share."""
    if not isinstance(text, FolderTeacher):
        return replace(text, output="pooler")
    # Of a folder the files themselves are the identity, and the two towers read different ones.
    folder = Path(text.folder)
    is_whole = all((folder / name).is_file() for name in teachers.files_in(folder, "pooler"))
    return teachers.from_folder(folder, "pooler") if is_whole else None


def zero_shot(cell: Cell, layout: Layout, dataset: Dataset, prototypes: np.ndarray) -> dict[str, Any] | None:
    """Return the test accuracy, as shares of 1, of the teacher's images against its class names.

    Args:
        cell: a run whose teacher is a text tower.
        layout: where things lie.
        dataset: for the test labels.
        prototypes: what the text tower says of each class [C, D].

    Returns:
        `top1`, `top5` and the store's name; None where the vision tower's embeddings are not stored.

    Raises:
        DataError: what is stored is damaged, or was made from another content of the dataset.
    """
    import torch

    store = vision_store(cell, layout)
    if store is None or prototypes.ndim != 2:
        return None
    artifact = open_artifact(store.folder, "embeddings", store.identity)
    if artifact.facts["dataset_content"] != dataset.content:
        raise DataError(f"{store.folder} was made from another content of {dataset.spec.title}: extract it again")
    projection = visual_projection(cell, layout)
    names = unit_length(prototypes.astype(np.float64))
    images, labels = Vectors(artifact, "test"), dataset.test_labels
    right = torch.zeros(2, dtype=torch.long)
    for start in range(0, len(images), ROWS):
        vectors = images[start : start + ROWS].astype(np.float64)
        cosines = unit_length(vectors if projection is None else vectors @ projection.T) @ names.T
        right += torch.stack(top_k(torch.from_numpy(cosines), torch.from_numpy(labels[start : start + ROWS].copy())))
    top1, top5 = (count / len(images) for count in right.tolist())
    return {"top1": top1, "top5": top5, "embeddings": f"{store.folder.parent.name}/{store.folder.name}"}


def visual_projection(cell: Cell, layout: Layout) -> np.ndarray | None:
    """Return the map [D, V] from the vision tower's pooler to the space that both towers share; None: it lies there."""
    text = cell.teacher_spec
    assert text is not None
    checkpoint = open_artifact(layout.teacher(text), "teacher", text.identity())
    family = text_family(read_json(checkpoint.file("config.json"))["model_type"])
    if family is None or not family.image_projection:
        return None
    name = family.image_projection
    with safe_open(checkpoint.file("model.safetensors"), framework="pt") as weights:  # numpy has no bfloat16
        return weights.get_tensor(name).double().numpy()
