"""Export: a run's student in a folder that can be handed on; whole or absent, like every artefact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import (
    MANIFEST,
    building,
    open_artifact,
    read_manifest,
    sha256,
)
from clipkd.core.errors import InputError
from clipkd.core.typed_json import read_model
from clipkd.data.dataset import Dataset
from clipkd.data.preprocessing import Picture
from clipkd.export.formats import EXPORT, Format
from clipkd.export.model import Model, load
from clipkd.plugins import datasets
from clipkd.runs.record import KIND as RUN
from clipkd.runs.record import METRICS, Metrics
from clipkd.spec.class_names import ClassNames

PROTOCOL = 1
"""Bumped when the files of an unchanged run change."""
MOST_CHECKED = 64
"""Images of the dataset that an export is checked on."""


@dataclass(frozen=True)
class Source:
    """What is exported."""

    model: Model
    metrics: Metrics
    folder: Path
    """The run folder."""
    license: str
    """As the Hugging Face hub names licences; `other` where the user gave none."""
    pictures: Sequence[Picture]
    """Real images, where the format is checked on some."""
    is_named: bool = False
    """Whether the user named these images."""

    @property
    def described(self) -> dict[str, Any]:
        """What rebuilds the student, and where it comes from; stands in config.json."""
        metrics = self.metrics
        trained = metrics.cell.model_dump() | {"fingerprint": metrics.fingerprint, "epochs": metrics.epochs}
        named = {"class_names": self.model.class_names} if self.model.class_names else {}
        return {
            "student": metrics.identity["student"],
            "classes": self.model.classes,
            **named,
            "preprocessing": self.model.preprocessing.facts(),
            "trained": trained,
        }


def export(
    run: Path,
    form: Format,
    folder: Path,
    data: Path,
    license: str = "other",
    named: Sequence[Path] = (),
    class_names: ClassNames | None = None,
) -> Path:
    """Write a run's student to `folder`; an earlier export gives way.

    Args:
        run: the run folder.
        form: the format.
        folder: where the export goes: absent, empty, or an export of the same format.
        data: the folder of datasets; the test split of the run's own is what a format is checked on.
        license: as the Hugging Face hub names licences.
        named: images to check on instead.
        class_names: what the classes are called; None: as the run was told.

    Raises:
        InputError: `folder` holds something else, another format or an edited file; `run` is no run folder.
        DataError: a file of the run is damaged, or the export does not compute what the student computes.
    """
    refuse_foreign(folder, form)
    model = load(run, "cpu", class_names)
    if model.manifest["kind"] != RUN:
        raise InputError(f"{run} is an export already: give the run folder that it was made from")
    open_artifact(run, RUN)
    metrics = read_model(run / METRICS, Metrics)
    pictures = (list(named) or test_images(metrics, data)) if form.is_checked else []
    source = Source(model, metrics, run, license, pictures, is_named=bool(named))
    weights = {name: entry["sha256"] for name, entry in model.manifest["files"].items()}
    identity = {
        "format": form.name,
        "license": license,
        "protocol": PROTOCOL,
        "run": metrics.fingerprint,
        "files": weights,
    }
    if class_names:
        identity["class_names"] = class_names.identity()
    with building(folder, EXPORT, identity) as draft:
        draft.facts |= form.write(source, draft.path)
    return folder


def test_images(metrics: Metrics, data: Path) -> list[Picture]:
    """Return some test images of a run's dataset, where the very dataset lies below `data`; else none."""
    folder = data / "datasets" / metrics.cell.dataset
    if not (folder / MANIFEST).is_file():
        return []
    found = open_artifact(folder, "dataset")
    if found.facts["content"] != metrics.dataset_content:
        return []
    dataset = Dataset(datasets.get(metrics.cell.dataset, str(folder)), found)
    rows = range(min(MOST_CHECKED, len(dataset.test_labels)))
    return [np.array(dataset.image("test", row)) for row in rows]


def refuse_foreign(folder: Path, form: Format) -> None:
    """Raise InputError where `folder` holds what an export, which takes the whole folder, must not remove.

    That is anything but an export of the same format, each file as it was written: a card may be edited.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file() or read_manifest(folder)["kind"] != EXPORT:
        raise InputError(f"{folder} holds something else: give a folder that is empty or does not exist")
    manifest = read_manifest(folder)
    there = manifest["identity"]["format"]
    if there != form.name:
        raise InputError(f"{folder} holds an export of format {there}: give another folder, or remove this one first")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        known = manifest["files"].get(name, {}).get("sha256")
        if path.is_file() and name != MANIFEST and sha256(path) != known:
            what = "has been changed since it was exported" if known else "is not of the export that is there"
            raise InputError(f"{path} {what}, and would be lost: give another folder, or remove {folder} first")
