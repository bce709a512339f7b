"""Export: a run's student in a folder to share; whole or absent, like every artefact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipkd.core.artifacts import MANIFEST, building, open_artifact, read_manifest
from clipkd.core.errors import InputError
from clipkd.core.files import sha256
from clipkd.core.progress import say
from clipkd.core.typed_json import read_model
from clipkd.data.dataset import Dataset
from clipkd.data.preprocessing import Picture
from clipkd.export.files import EXPORT
from clipkd.export.formats import Format
from clipkd.export.model import load
from clipkd.export.model_card import epoch_note
from clipkd.export.source import ExportSource
from clipkd.export.subject import Subject
from clipkd.plugins import datasets
from clipkd.runs.record import KIND as RUN
from clipkd.runs.record import METRICS, Metrics
from clipkd.spec.class_names import ClassNames

PROTOCOL = 2
"""Bumped when an unchanged run is exported to other weights or settings."""
MOST_CHECKED = 64
"""Most images of the dataset that an export is checked on."""


def export(
    run: Path,
    form: Format,
    folder: Path,
    data: Path,
    license: str = "other",
    images: Sequence[Path] = (),
    class_names: ClassNames | None = None,
) -> Path:
    """Write a run's student to `folder`, replacing an earlier export.

    Args:
        run: the run folder.
        form: the format.
        folder: where the export goes: absent, empty, or an export of the same format.
        data: the folder of datasets; a format is checked on test images of the run's own dataset.
        license: as the Hugging Face hub names licenses.
        images: images to check on instead.
        class_names: what the classes are called; None: as in the run.

    Raises:
        InputError: `folder` holds something else, another format or an edited file; `run` is not a run folder.
        DataError: a file of the run is damaged, or the export does not compute what the student computes.
    """
    refuse_foreign(folder, form.name)
    model = load(run, "cpu", class_names)
    if model.manifest["kind"] != RUN:
        raise InputError(f"{run} is an export; give the run folder that it was made from")
    if not model.classes:
        raise InputError(f"{run} was trained without labels: it has no classifier to export; use the run folder itself")
    open_artifact(run, RUN)
    metrics = read_model(run / METRICS, Metrics)
    dataset = dataset_of(metrics, data) if form.is_checked else None
    checked_on = list(images) or (test_images(dataset) if dataset else [])
    subject = Subject(model, dataset, data) if dataset else None
    source = ExportSource(model, metrics, run, license, checked_on, subject, are_given=bool(images))
    identity = {
        "format": form.name,
        "license": license,
        "protocol": PROTOCOL,
        "run": metrics.fingerprint,
        "files": {name: entry["sha256"] for name, entry in model.manifest["files"].items()},
        **form.options(),
    }
    if class_names:
        identity["class_names"] = class_names.identity()
    # The card also tells of runs beside this one, so an unchanged identity may have other files.
    with building(folder, EXPORT, identity, replace=True) as draft:
        draft.facts |= form.write(source, draft.path)
    say(epochs_of(metrics))
    return folder


def epochs_of(metrics: Metrics) -> str:
    """Return which epoch of a run an export holds, in words."""
    selected = metrics.selected
    assert selected.test is not None, "a student without classes is not exported"
    line = f"epoch {selected.epoch} of {metrics.epochs}, test accuracy {100 * selected.test.top1:.2f} %"
    return "\n".join(filter(None, (line, epoch_note(metrics))))


def dataset_of(metrics: Metrics, data: Path) -> Dataset | None:
    """Return a run's dataset, where the very dataset lies below `data`."""
    folder = data / "datasets" / metrics.cell.dataset
    if not (folder / MANIFEST).is_file():
        return None
    found = open_artifact(folder, "dataset")
    if found.facts["content"] != metrics.dataset_content:
        return None
    return Dataset(datasets.get(metrics.cell.dataset, str(folder)), found)


def test_images(dataset: Dataset) -> list[Picture]:
    """Return some test images."""
    rows = range(min(MOST_CHECKED, len(dataset.test_labels)))
    return [np.array(dataset.image("test", row)) for row in rows]


def refuse_foreign(folder: Path, form: str, kind: str = EXPORT) -> None:
    """Raise InputError where `folder` holds anything but an unchanged export of this kind and format.

    An export replaces the whole folder: what else lies there, or was edited, would be lost.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file() or read_manifest(folder)["kind"] != kind:
        raise InputError(f"{folder} is not empty and not an export of this kind; choose an empty or a new folder")
    manifest = read_manifest(folder)
    there = manifest["identity"]["format"]
    if there != form:
        raise InputError(f"{folder} is an export in format {there}; choose another folder, or delete it first")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        known = manifest["files"].get(name, {}).get("sha256")
        if path.is_file() and name != MANIFEST and sha256(path) != known:
            what = "was changed after the export" if known else "is not part of the export"
            raise InputError(f"{path} {what} and would be lost; choose another folder, or delete {folder} first")
