"""A teacher's stored embeddings as files that other tools read: Parquet, NumPy arrays, a dataset of the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import DatasetCardData
from markupsafe import Markup

from clipkd.core.artifacts import building
from clipkd.core.errors import MachineError
from clipkd.core.version import __version__
from clipkd.embeddings.stored import StoredEmbeddings
from clipkd.embeddings.vectors import Vectors
from clipkd.export.files import CARD, EMBEDDINGS_EXPORT
from clipkd.export.model_card import TEMPLATES, hub_models
from clipkd.export.write import refuse_foreign

PROTOCOL = 1
"""Bumped when the same store is exported to other files."""
ROWS = 4096
"""Images that are in memory at once."""
SPLITS = ("train", "test")


def export_embeddings(stored: StoredEmbeddings, form: str, folder: Path, license: str = "other") -> Path:
    """Write every stored vector as float32, with its image's row, split, label, file and view; return `folder`.

    Args:
        stored: the embeddings, as `clipkd.load_embeddings` returns them.
        form: one of clipkd.export.files.EMBEDDINGS_FORMATS.
        folder: where the export goes: absent, empty, or an export of the same format.
        license: as the Hugging Face hub names licenses.

    Raises:
        InputError: `folder` holds something else, another format or an edited file.
        DataError: a file of the store is damaged.
        MachineError: pyarrow is not installed, or the disk is full.
    """
    refuse_foreign(folder, form, EMBEDDINGS_EXPORT)
    artifact = stored.artifact
    splits = [split for split in SPLITS if f"{split}.npy" in artifact.manifest["files"]]
    identity = {
        "format": form,
        "license": license,
        "protocol": PROTOCOL,
        "embeddings": artifact.manifest["fingerprint"],
        "has_labels": stored.labels is not None,
    }
    # Names of classes and files are the packed dataset's: they change without the identity.
    with building(folder, EMBEDDINGS_EXPORT, identity, replace=True) as draft:
        for split in splits:
            vectors = Vectors(artifact, split)
            if form == "npy":
                write_arrays(draft.path, split, vectors, stored)
            else:
                inside = draft.path / ("data" if form == "hf" else ".")
                inside.mkdir(exist_ok=True)
                write_table(inside / f"{split}.parquet", split, vectors, stored)
        if form == "npy" and stored.classes is not None:
            (draft.path / "classes.json").write_text(json.dumps(stored.classes, indent=1, ensure_ascii=False))
        (draft.path / CARD).write_text(card(stored, form, splits, license), encoding="utf-8")
    return folder


def chunks(vectors: Vectors) -> Iterator[tuple[int, np.ndarray]]:
    """Return the vectors, ROWS images at a time: the first one's number, float32 [N, V, D] or [N, D]."""
    for start in range(0, len(vectors), ROWS):
        yield start, vectors[start : start + ROWS]


def write_arrays(folder: Path, split: str, vectors: Vectors, stored: StoredEmbeddings) -> None:
    """Write `<split>.npy`, float32, in the store's shape; `<split>-labels.npy`; `<split>-files.json`."""
    header = {"descr": "<f4", "fortran_order": False, "shape": vectors.shape}
    with open(folder / f"{split}.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for _, values in chunks(vectors):
            stream.write(np.ascontiguousarray(values, "<f4").data)
    if stored.labels is not None:
        np.save(folder / f"{split}-labels.npy", stored.labels[split])
    if stored.files is not None:
        (folder / f"{split}-files.json").write_text(json.dumps(stored.files[split], ensure_ascii=False))


def write_table(path: Path, split: str, vectors: Vectors, stored: StoredEmbeddings) -> None:
    """Write a Parquet file: one row per image and view; a label is null where the image has none."""
    arrow, parquet = pyarrow_modules()
    fields = {"split": arrow.string(), "row": arrow.int64(), "view": arrow.int8()}
    if stored.labels is not None:
        fields |= {"label": arrow.int64(), "class": arrow.string()}
    if stored.files is not None:
        fields["file"] = arrow.string()
    dimensions = vectors.shape[-1]
    schema = arrow.schema([*fields.items(), ("embedding", arrow.list_(arrow.float32(), dimensions))])
    with parquet.ParquetWriter(path, schema) as writer:
        for start, values in chunks(vectors):
            views = 1 if values.ndim == 2 else values.shape[1]
            rows = np.repeat(np.arange(start, start + len(values)), views)
            columns: dict[str, Any] = {
                "split": [split] * len(rows),
                "row": rows,
                "view": np.tile(np.arange(views, dtype=np.int8), len(values)),
            }
            if stored.labels is not None and stored.classes is not None:
                labels = stored.labels[split][rows]
                columns["label"] = arrow.array(labels, mask=labels < 0)
                columns["class"] = [stored.classes[label] if label >= 0 else None for label in labels]
            if stored.files is not None:
                columns["file"] = [stored.files[split][row] for row in rows]
            columns["embedding"] = arrow.FixedSizeListArray.from_arrays(values.ravel(), dimensions)
            writer.write_table(arrow.table(columns, schema=schema))


def pyarrow_modules() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MachineError("Parquet needs pyarrow: pip install 'clipkd[hub-datasets]'; --format npy does not") from None
    return pyarrow, pyarrow.parquet


def card(stored: StoredEmbeddings, form: str, splits: list[str], license: str) -> str:
    """Return the card: what the vectors are, by which commit, how images were normalised, and the licence note."""
    artifact, identity = stored.artifact, stored.artifact.identity
    dataset, teacher = artifact.path.parts[-3], artifact.path.parts[-2]
    name = f"{dataset}-{teacher}"
    tables = [{"split": split, "path": f"data/{split}.parquet"} for split in splits]
    metadata = DatasetCardData(
        license=license,
        pretty_name=f"Embeddings of {dataset} by {teacher}",
        task_categories=["image-feature-extraction"],
        tags=["clipkd", "embeddings", "knowledge-distillation"],
        configs=[{"config_name": "default", "data_files": tables}],
    )
    return TEMPLATES.get_template("embeddings_card.md").render(
        metadata=Markup(metadata.to_yaml()) if form == "hf" else None,
        name=name,
        dataset=dataset,
        teacher=teacher,
        form=form,
        models=hub_models(identity),
        facts=artifact.facts,
        imported=artifact.facts.get("imported"),
        identity=identity,
        views=identity.get("views", {}),
        shapes={split: Vectors(artifact, split).shape for split in splits},
        labels=stored.labels,
        classes=stored.classes,
        files=stored.files,
        fingerprint=artifact.manifest["fingerprint"],
        version=__version__,
        license=license,
    )
