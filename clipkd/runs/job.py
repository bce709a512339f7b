"""A training job: a cell, its hyperparameters, and everything it reads, opened and checked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from clipkd.core.artifacts import Artifact, open_artifact
from clipkd.core.errors import DataError, InputError
from clipkd.core.fingerprint import Identity, fingerprint
from clipkd.core.progress import say
from clipkd.core.scratch import open_near
from clipkd.data.augmentation import Augmentation
from clipkd.data.batches import Batches, CroppedBatches, FlippedBatches
from clipkd.data.boxes import replayed_views
from clipkd.data.dataset import Dataset, open_dataset
from clipkd.data.image_digests import counters
from clipkd.data.labelled import Labelled, TrainingImages, labelled_rows, training_images
from clipkd.data.preprocessing import Preprocessing
from clipkd.data.thumbnails import Thumbnails, open_thumbnails
from clipkd.data.view_batches import Stored, ViewBatches
from clipkd.embeddings.enlargement import say_enlarged
from clipkd.embeddings.prototypes import OTHER_FORM, sampled, without_direction
from clipkd.embeddings.teacher import Teacher, load
from clipkd.embeddings.vectors import Vectors
from clipkd.embeddings.weights_sha256 import teacher_fingerprint, weights_of
from clipkd.plugins import prototype_forms, recipes
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.teachers import SeveralTeachers
from clipkd.runs.precision import resolved
from clipkd.runs.standardisation import Standardisation
from clipkd.runs.teacher_targets import (
    LazyTargets,
    LiveTargets,
    Presentation,
    PrototypeTargets,
    SampledPrototypes,
    SeveralTargets,
    StoredScores,
    StoredTargets,
    TeacherTargets,
    linear,
)
from clipkd.runs.vector_stores import vector_store
from clipkd.spec.cells import Cell
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Embeddings, Layout
from clipkd.spec.refusals import needs_all_labels
from clipkd.spec.selection import KeptBy, kept_by
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.strength import strength_for
from clipkd.spec.views import REPLAY_SEED, normalisation

TEACHING = {"teacher", "embeddings", "prototypes", "head"}
"""Kinds of artefacts that a run's teacher signal comes from."""
FORM = ("prototypes", "deviation")
"""Arrays of class prototypes; the second one only of those that are drawn in each step."""
NAMED = 5
"""Classes that a message lists."""


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
    inputs: list[Artifact] = field(default_factory=list)
    """What the training reads besides the dataset, as it was opened."""

    @property
    def identity(self) -> Identity:
        """What makes the run."""
        return run_identity(self.cell, self.numbers, self.layout, self.dataset.content, self.ranks)

    def facts(self) -> dict[str, Any]:
        """Return what the student's users need besides what made it; it is in the run's manifest."""
        steps = Preprocessing.of(self.dataset, self.cell.student_spec.image_size)
        named = {"class_names": self.names} if self.classes and self.names != self.classes else {}
        chosen = {"augment": self.recipe.augment} if self.chooses_strength else {}
        facts = {"classes": self.classes, "preprocessing": steps.facts(), "signal": self.signal()}
        return facts | named | chosen

    def signal(self) -> list[dict[str, Any]]:
        """Return which bytes taught: of each artefact of the teacher's its content, and its teacher's weights."""
        found = {
            fingerprint(artifact.identity): {
                "kind": artifact.manifest["kind"],
                "fingerprint": fingerprint(artifact.identity),
                "sha256": artifact.content,
                "teacher": teacher_fingerprint(artifact.identity),
                "weights_sha256": weights_of(artifact),
            }
            for artifact in self.inputs
            if artifact.manifest["kind"] in TEACHING
        }
        return [found[key] for key in sorted(found)]

    def refuse_changed_inputs(self) -> None:
        """Raise DataError where a file that the training reads has other bytes than when it began."""
        for artifact in (self.dataset.artifact, *self.inputs):
            if path := artifact.changed():
                advice = f"Restore the file, or delete {artifact.place} to regenerate it, and run the command again"
                if artifact.is_replaced():
                    advice = f"{artifact.place} was made again: run the command again, to train on what it holds now"
                raise DataError(
                    f"{self.cell.folder}: {path} was changed during the training, which stops here; what was saved "
                    f"before it is sound. {advice}"
                )

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with the strength of its augmentation chosen where it leaves that open.

        Raises:
            DataError: the plan, whose views are stored, has chosen another one.
        """
        recipe, planned = self.cell.recipe_spec, self.cell.strength
        given = recipes.get(self.cell.recipe).augment
        if given != "auto":
            return recipe.of_strength(given)
        images = len(training_rows(self))
        strength = strength_for(self.cell.student_spec, images, self.numbers.epochs)
        if planned not in (None, strength):
            raise DataError(
                f"{self.cell.folder}: augmentation '{planned}' was planned, and {images:,} images of "
                f"{self.dataset.spec.title} ask for '{strength}': its source has changed; give the same command again"
            )
        return recipe.of_strength(strength)

    @property
    def chooses_strength(self) -> bool:
        """Whether the recipe leaves the strength of its augmentation open."""
        return recipes.get(self.cell.recipe).augment == "auto"

    @cached_property
    def labelled(self) -> Labelled:
        """The images whose labels the run may see."""
        few = self.cell.few_labels
        if not self.cell.has_labels:
            return Labelled(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return labelled_rows(self.dataset, few.count, few.seed) if few else labelled_rows(self.dataset)

    @property
    def kept_by(self) -> KeptBy:
        """What says which epoch is kept."""
        return kept_by(self.cell.selection, len(self.labelled.validation))

    @cached_property
    def images(self) -> TrainingImages:
        """What an epoch shows, and the labels that may be seen of it."""
        rows, parts = training_rows(self), self.labelled
        labelled = np.intersect1d(rows, np.concatenate(parts))
        share = self.cell.recipe_spec.labelled_share
        return training_images(self.dataset, rows, labelled, self.cell.method.sees_unlabelled, share)

    @property
    def classes(self) -> list[str]:
        """The classes that the student tells apart: the dataset's; none where it sees no labels."""
        return self.dataset.classes if self.cell.has_labels else []

    @property
    def names(self) -> list[str]:
        """What the dataset's classes are called."""
        return self.layout.prompts(self.dataset.spec).of(self.dataset.classes)

    def settings(self) -> dict[str, Any]:
        """Return the resolved settings, as in a run's config.yaml."""
        return self.identity | {"device": str(self.device), "threads": torch.get_num_threads()}


def open_job(cell: Cell, numbers: Hyperparameters, layout: Layout, device: torch.device, ranks: int = 1) -> Job:
    """Open what a cell's student sees; `open_teacher_targets` then adds the teacher's part.

    `precision: auto` is here what it stands for on the device.
    """
    spec = cell.dataset_spec
    precision = resolved(numbers.precision_of(cell.recipe_spec), device, cell.student_spec)
    numbers = numbers.model_copy(update={"precision": precision})
    dataset = open_dataset(spec, layout.dataset(spec), with_images=not spec.has_thumbnails, opener=open_near)
    job = Job(cell, numbers, layout, device, dataset, ranks=ranks)
    if cell.has_labels and not dataset.classes:
        raise InputError(
            f"no image of {spec.title} has a label: train with labels: none (--labels none, docs/few-labels.md)"
        )
    job.layout.prompts(spec).of(dataset.classes)  # wrong names raise an error before the training, not after it
    if spec.has_thumbnails:
        folder, identity = layout.thumbnails(spec, cell.student_spec.image_size)
        job.thumbnails = open_thumbnails(open_part(job, "thumbnails", folder, identity))
    return job


def open_part(job: Job, kind: str, folder: Any, identity: Identity) -> Artifact:
    """Open an artefact that the run reads, made from the very dataset that it trains on."""
    artifact = open_near(folder, kind, identity)
    if artifact.facts.get("class_names", job.names) != job.names:
        raise DataError(
            f"{folder} was made from other class names than {job.dataset.spec.title} has now; "
            "delete it to regenerate it"
        )
    if artifact.facts["dataset_content"] != job.dataset.content:
        raise DataError(
            f"{folder} was made from another content of {job.dataset.spec.title} than "
            f"{job.dataset.artifact.path} holds now: run the command again, which makes it anew"
        )
    job.inputs.append(artifact)
    return artifact


def open_teacher_targets(job: Job) -> TeacherTargets:
    """Return the teacher's part in the job's steps."""
    if job.cell.method.signal == "nothing":
        return TeacherTargets()
    rows = target_rows(job)
    spec = job.cell.teacher_spec
    if not isinstance(spec, SeveralTeachers):
        return targets_of_one(job, rows)
    each = [targets_of_one(replace(job, cell=one), rows, spec.standardise) for one in job.cell.by_teacher]
    return SeveralTargets(each, spec.shares)


def target_rows(job: Job) -> np.ndarray | None:
    """Return for each image the one whose targets it gets; None: its own. Says how many can only have their own."""
    shown = job.images
    labels, rows = shown.labels, shown.rows
    if job.cell.method.target_of == "another image of the class" and (labels[rows] < 0).any():
        raise needs_all_labels(job.cell)
    found = job.cell.method.target_rows(labels, rows, job.cell.seed)
    if found is not None:
        kept = rows[found[rows] == rows]
        some = ", ".join(job.names[label] for label in labels[kept[:NAMED]])
        more = f" and {len(kept) - NAMED} more" if len(kept) > NAMED else ""
        if len(kept):
            say(f"{job.cell.train_type}: classes of one training image keep that image's own targets: {some}{more}")
    return found


def targets_of_one(job: Job, rows: np.ndarray | None, standardise: bool = False) -> TeacherTargets:
    """Return the part of a job's one teacher.

    Args:
        job: the job, with one teacher in its cell.
        rows: for each image, the one whose targets it gets; None: its own.
        standardise: whether the dimensions of stored embeddings are standardised.
    """
    cell, device, asked, source = job.cell, job.device, job.cell.method.signal, job.cell.teacher_source
    if asked == "prototypes":
        return prototype_targets(job, standardise)
    head = open_part(job, "head", *job.layout.head(cell)) if asked == "scores" else None
    layer = linear(head.array("weight"), head.array("bias"), device) if head else None
    if source in {"cached", "replayed"}:
        store = job.layout.full_embeddings(cell) if source == "cached" else job.layout.replayed_embeddings(cell)
        if not layer:
            return embedding_targets(job, store, rows, standardise)
        vectors = Vectors(open_part(job, "embeddings", store.folder, store.identity), "train")
        return StoredScores(vector_store(vectors, device), layer, rows, cell.has_one_view)
    spec = cell.teacher_spec
    assert spec is not None
    folder = job.layout.teacher(spec)
    job.inputs.append(open_artifact(folder, "teacher", spec.identity()))
    teacher = load(spec, folder, device, job.layout.precision)
    if source == "lazy":
        return LazyTargets(teacher, presentation(cell, teacher), layer, len(job.dataset.train_labels))
    return LiveTargets(teacher, presentation(cell, teacher), layer)


def presentation(cell: Cell, teacher: Teacher) -> Presentation:
    """Return how a live teacher is shown a batch: as the views of its store are made (`clipkd.spec.views`)."""
    recipe, dataset, side = cell.recipe_spec, cell.dataset_spec, cell.student_spec.image_size
    is_own, native = recipe.teacher_normalisation == "teacher", cell.draws_views or recipe.teacher_view == "native"
    students = (dataset.mean, dataset.std) if is_own and not native else None
    # Random crops come at their size: its processor must not crop them again.
    is_whole = not (cell.draws_views or dataset.crops) and (native or side == dataset.image_size)
    if is_own and is_whole:
        return Presentation(native, students=students)
    shown = normalisation(recipe, dataset, teacher.spec)
    return Presentation(native, shown["mean"] or teacher.mean, shown["std"] or teacher.std, students)


def embedding_targets(job: Job, store: Embeddings, rows: np.ndarray | None, standardise: bool) -> TeacherTargets:
    """Return the stored embeddings of a job's one teacher."""
    artifact = open_part(job, "embeddings", store.folder, store.identity)
    vectors, is_standardised = Vectors(artifact, "train"), standardise or job.recipe.standardised
    standardised = Standardisation.of_images(artifact) if is_standardised else None
    return StoredTargets(vector_store(vectors, job.device, standardised), rows, job.cell.has_one_view)


def prototype_targets(job: Job, standardise: bool) -> TeacherTargets:
    """Return the class prototypes of a job's one teacher, as its method prepares them."""
    prepare = partial(job.cell.method.class_targets, seed=job.cell.seed)
    arrays = prototype_arrays(job, standardise)
    if wrong := without_direction(arrays):
        raise DataError(
            f"{job.layout.prototypes(job.cell)[0]}: {wrong} so nothing can be learnt from them; {OTHER_FORM}"
        )
    made = {name: torch.tensor(array).to(job.device) for name, array in arrays.items()}
    if "deviation" in made:
        return SampledPrototypes(made["prototypes"], made["deviation"], prepare)
    return PrototypeTargets(prepare(made["prototypes"]))


def prototype_arrays(job: Job, standardise: bool) -> dict[str, np.ndarray]:
    """Return class prototypes, and of some forms more: those that are stored, or those of the standardised sample."""
    folder, identity = job.layout.prototypes(job.cell)
    artifact = open_part(job, "prototypes", folder, identity)
    if not standardise:
        return {name: artifact.array(name) for name in FORM if f"{name}.npy" in artifact.manifest["files"]}
    store = job.layout.sample_embeddings(job.cell)
    sample = open_part(job, "embeddings", store.folder, store.identity)
    vectors, labels = sampled(sample, job.layout.labelled_sample(job.cell), job.dataset)
    # Of the sample, not of its prototypes: some forms bring each vector to length 1 before they take a mean.
    vectors = Standardisation.of_vectors(vectors)(vectors)
    form = prototype_forms.get(job.layout.form_of(job.cell))
    return form.prototypes(vectors, labels, len(job.dataset.classes))


def training_rows(job: Job) -> np.ndarray:
    """Return the training images' rows: all, or those not held out for selection."""
    if job.cell.recipe_spec.selection == "validation":
        return job.dataset.training
    return np.arange(len(job.dataset.train_labels))


def open_batches(job: Job, source: TeacherTargets) -> Batches:
    """Return the source of the job's batches."""
    strength, side = job.recipe.augment, job.cell.student_spec.image_size
    assert strength != "auto"
    if job.chooses_strength:
        name = job.cell.recipe_spec.name
        say(f"recipe {name}: augmentation '{strength}', by the student's size and the images that it sees")
    if not job.recipe.draws_views(job.dataset.spec.crops):
        return own_batches(job, source)
    images = own_batches(job, TeacherTargets())
    stored = Stored(REPLAY_SEED, job.layout.views) if job.cell.teacher_source == "replayed" else None
    drawn_by = counters(job.dataset.digests("train")) if stored else None
    augmentation = Augmentation(strength, job.dataset.spec, side, images.train.sizes, job.dataset.training, drawn_by)
    return ViewBatches(images, augmentation, len(job.dataset.classes), stored, source.teacher is not None)


def own_batches(job: Job, source: TeacherTargets) -> FlippedBatches | CroppedBatches:
    """Return the source of the job's batches with the dataset's own flips and crops."""
    cell, dataset = job.cell, job.dataset
    native = source.teacher is not None and cell.recipe_spec.teacher_view == "native"
    if job.thumbnails is None:
        return FlippedBatches(dataset, job.images, cell.student_spec.image_size, native, job.device)
    side = source.teacher.image_size if native and source.teacher else None
    if source.teacher is not None and side is not None:
        dataset = open_dataset(dataset.spec, dataset.artifact.path, opener=open_near)  # the large images' bytes too
        job.inputs.append(dataset.artifact)
        say_enlarged(dataset, source.teacher)
    return CroppedBatches(dataset, job.thumbnails, job.images, side, job.device, replay_of(job))


def replay_of(job: Job) -> tuple[np.ndarray, np.ndarray] | None:
    """Return boxes [N, V, 4] and flips [N, V] of the views that a `replayed` run is limited to."""
    if job.cell.teacher_source != "replayed" or job.cell.draws_views:
        return None
    # Which views are stored depends on the images alone: those of all teachers, and of none, are the same.
    if not job.cell.method.is_per_image:
        assert job.thumbnails is not None
        sizes, mirrors = job.thumbnails.train.shapes[:, 1:], job.cell.dataset_spec.mirrors
        return replayed_views(sizes, counters(job.dataset.digests("train")), job.layout.views, REPLAY_SEED, mirrors)
    store = job.layout.replayed_embeddings(job.cell.by_teacher[0])
    artifact = open_near(store.folder, "embeddings", store.identity)
    return artifact.array("train-boxes"), artifact.array("train-flips")
