"""A training job: a cell, its hyperparameters, and everything it reads, opened and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from clipkd.core.artifacts import Artifact, open_artifact
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity
from clipkd.data.batches import Batches, CroppedBatches, FlippedBatches
from clipkd.data.dataset import Dataset, open_dataset
from clipkd.data.preprocessing import Preprocessing
from clipkd.data.thumbnails import Thumbnails, open_thumbnails
from clipkd.embeddings.teacher import load
from clipkd.embeddings.vectors import Vectors
from clipkd.runs.teacher_targets import (
    LazyTargets,
    LiveTargets,
    PrototypeTargets,
    SampledPrototypes,
    SeveralTargets,
    StoredScores,
    StoredTargets,
    TeacherTargets,
    linear,
)
from clipkd.spec.cells import Cell
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters


@dataclass
class Job:
    """One student to train."""

    cell: Cell
    numbers: Hyperparameters
    layout: Layout
    device: torch.device
    dataset: Dataset
    thumbnails: Thumbnails | None = None
    """What the student sees of a dataset that it is shown in random crops."""
    ranks: int = 1
    """Processes that train the student together: each draws dropout of its own."""

    @property
    def identity(self) -> Identity:
        """What makes the run."""
        return run_identity(self.cell, self.numbers, self.layout, self.dataset.content, self.ranks)

    def facts(self) -> dict[str, Any]:
        """Return what the student's users need besides what made it; it is in the run's manifest."""
        steps = Preprocessing.of(self.dataset.spec, self.cell.student_spec.image_size)
        named = {"class_names": self.names} if self.names != self.dataset.classes else {}
        return {"classes": self.dataset.classes, "preprocessing": steps.facts()} | named

    @property
    def names(self) -> list[str]:
        """What the dataset's classes are called."""
        return self.layout.prompts(self.dataset.spec).of(self.dataset.classes)

    def settings(self) -> dict[str, Any]:
        """Return the resolved settings, as in a run's config.yaml."""
        return self.identity | {"device": str(self.device), "threads": torch.get_num_threads()}


def open_job(cell: Cell, numbers: Hyperparameters, layout: Layout, device: torch.device, ranks: int = 1) -> Job:
    """Open what a cell's student sees; `open_teacher_targets` then adds the teacher's part."""
    spec = cell.dataset_spec
    dataset = open_dataset(spec, layout.dataset(spec), with_images=not spec.has_thumbnails)
    job = Job(cell, numbers, layout, device, dataset, ranks=ranks)
    job.layout.prompts(spec).of(dataset.classes)  # wrong names raise an error before the training, not after it
    if spec.has_thumbnails:
        folder, identity = layout.thumbnails(spec, cell.student_spec.image_size)
        job.thumbnails = open_thumbnails(open_part(job, "thumbnails", folder, identity))
    return job


def open_part(job: Job, kind: str, folder: Any, identity: Identity) -> Artifact:
    """Open an artefact that the run reads, made from the very dataset that it trains on."""
    artifact = open_artifact(folder, kind, identity)
    if artifact.facts.get("class_names", job.names) != job.names:
        raise DataError(
            f"{folder} was made from other class names than {job.dataset.spec.title} has now; "
            "delete it to regenerate it"
        )
    if artifact.facts["dataset_content"] != job.dataset.content:
        raise DataError(
            f"{folder} was made from another content of {job.dataset.spec.title} than "
            f"{job.dataset.artifact.path} holds now; delete it to regenerate it"
        )
    return artifact


def open_teacher_targets(job: Job) -> TeacherTargets:
    """Return the teacher's part in the job's steps."""
    cell, device = job.cell, job.device
    asked = cell.method.signal
    if asked == "nothing":
        return TeacherTargets()
    if len(cell.by_teacher) > 1:
        return SeveralTargets([open_teacher_targets(replace(job, cell=one)) for one in cell.by_teacher])
    if asked == "prototypes":
        folder, identity = job.layout.prototypes(cell)
        artifact = open_part(job, "prototypes", folder, identity)
        stored = cell.method.prepare(torch.from_numpy(artifact.array("prototypes").copy()), cell.seed).to(device)
        # A control has none of the classes' content, their spread included.
        if "deviation.npy" in artifact.manifest["files"] and not cell.method.control_of:
            return SampledPrototypes(stored, torch.from_numpy(artifact.array("deviation").copy()).to(device))
        return PrototypeTargets(stored)
    embeddings = job.layout.full_embeddings(cell)
    if cell.teacher_source == "cached" and asked == "embeddings":
        array = Vectors(open_part(job, "embeddings", embeddings.folder, embeddings.identity), "train")
        return StoredTargets(array, array.shape[-1], device)
    if cell.teacher_source == "cached":
        head = open_part(job, "head", *embeddings.head())
        return StoredTargets(head.array("scores-train"), head.array("weight").shape[1], device)
    if cell.teacher_source == "replayed":
        store = job.layout.replayed_embeddings(cell)
        vectors = Vectors(open_part(job, "embeddings", store.folder, store.identity), "train")
        if asked == "embeddings":
            return StoredTargets(vectors, vectors.shape[-1], device)
        head = open_part(job, "head", *embeddings.head())
        return StoredScores(vectors, linear(head.array("weight"), head.array("bias"), device), device)
    spec = cell.teacher_spec
    assert spec is not None
    teacher = load(spec, job.layout.teacher(spec), device, job.layout.precision)
    layer = None
    if asked == "scores":
        head = open_part(job, "head", *embeddings.head())
        layer = linear(head.array("weight"), head.array("bias"), device)
    if cell.teacher_source == "lazy":
        return LazyTargets(teacher, cell.recipe_spec, layer, len(job.dataset.train_labels))
    return LiveTargets(teacher, cell.recipe_spec, layer, crops=cell.dataset_spec.augmentation != "flip")


def open_batches(job: Job, source: TeacherTargets) -> Batches:
    """Return the source of the job's batches: all training rows, or those not held out for selection."""
    cell, dataset = job.cell, job.dataset
    hold_out = cell.recipe_spec.selection == "validation"
    rows = dataset.training if hold_out else torch.arange(len(dataset.train_labels)).numpy()
    native = source.teacher is not None and cell.recipe_spec.teacher_view == "native"
    if job.thumbnails is None:
        return FlippedBatches(dataset, rows, cell.student_spec.image_size, native, job.device)
    side = source.teacher.image_size if native and source.teacher else None
    if side is not None:
        dataset = open_dataset(dataset.spec, dataset.artifact.path)  # the large images' bytes are checked too
    return CroppedBatches(dataset, job.thumbnails, rows, side, job.device, replay_of(job))


def replay_of(job: Job) -> tuple[np.ndarray, np.ndarray] | None:
    """Return boxes [N, V, 4] and flips [N, V] of the views that a `replayed` run is limited to."""
    if job.cell.teacher_source != "replayed":
        return None
    # Which views are stored depends on the images alone: those of several teachers are the same.
    store = job.layout.replayed_embeddings(job.cell.by_teacher[0])
    artifact = open_artifact(store.folder, "embeddings", store.identity)
    return artifact.array("train-boxes"), artifact.array("train-flips")
