"""Names on disk: where each artefact lies. No torch here: the Snakefile reads this.

What makes an artefact is in its path, so that a changed teacher is a missing file, never an old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clipkd.core.fingerprint import Identity, fingerprint
from clipkd.plugins import prototype_forms
from clipkd.plugins.datasets import DOWNLOADS, DatasetSpec
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec import class_names
from clipkd.spec.cells import Cell
from clipkd.spec.class_names import ClassNames
from clipkd.spec.few_labels import FewLabels, labels_identity
from clipkd.spec.prompts import TEMPLATES
from clipkd.spec.settings import Config, TeacherPrecision
from clipkd.spec.views import (
    Prompts,
    Sample,
    Views,
    embeddings_identity,
    full_views,
    head_identity,
    prototype_views,
    prototypes_identity,
    replay_views,
)

RUNS = Path("results/runs")
"""Where the workflow's runs lie."""


@dataclass(frozen=True)
class Labelled:
    """The labelled training images that class prototypes are made of, where few are."""

    few: FewLabels
    per_class: int | Literal["all"]
    """Of each class, at most."""

    def identity(self) -> Identity:
        return labels_identity(self.few) | {"per_class": self.per_class}


@dataclass(frozen=True)
class Embeddings:
    """One (dataset, teacher, view set): its identity and its folder."""

    dataset: DatasetSpec
    teacher: TeacherSpec
    views: Any
    """A ViewSet; of a text tower, Prompts; of vectors that somebody else computed, ImportedViews."""
    dtype: str
    folder: Path
    precision: TeacherPrecision = "float32"
    class_names: ClassNames | None = None
    """What the user calls the dataset's classes."""

    @property
    def identity(self) -> Identity:
        return embeddings_identity(self.dataset, self.teacher, self.views, self.dtype, self.precision)

    def beside(self, kind: str, identity: Identity) -> Path:
        """Return the folder of what is derived from these embeddings: beside them, so that each can be shared alone."""
        return self.folder.with_name(f"{self.folder.name}-{kind}-{fingerprint(identity)}")

    def prototypes(self, form: str, sample: Labelled | None = None) -> tuple[Path, Identity]:
        """Return folder and identity of the class prototypes made from these embeddings.

        `sample`: the labelled images that they are made of, where these are embeddings of every image.
        """
        identity = prototypes_identity(self.identity, form) | (sample.identity() if sample else {})
        return self.beside("prototypes", identity), identity

    def head(self, few: FewLabels | None = None) -> tuple[Path, Identity]:
        """Return folder and identity of the class-score head made from these embeddings; `few`: by few labels."""
        name = self.dataset.name
        names, is_own = self.class_names if self.teacher.matches_names(name) else None, self.teacher.brings_head(name)
        # The checkpoint's own classifier needs no labels.
        identity = head_identity(self.identity, is_own, names) | labels_identity(None if is_own else few)
        return self.beside("head", identity), identity


@dataclass(frozen=True)
class Layout:
    """The folders below `data/`, and the options in their fingerprints."""

    data: Path = Path("data")
    dtype: str = "int16"
    sample: Sample = field(default_factory=Sample)
    form: str | None = None
    """Form of the class prototypes; None: the recipe's own."""
    views: int = 10
    """Stored views of each image that `teacher_source: replayed` trains on."""
    precision: TeacherPrecision = "float32"
    """In which teachers multiply matrices, live ones too."""
    templates: tuple[str, ...] = TEMPLATES
    """What class names are put into for a text tower."""
    class_names: tuple[tuple[str, ClassNames], ...] = ()
    """What the classes of a dataset are called, where the user says so."""

    @classmethod
    def of(cls, config: Config, data: Path = Path("data")) -> Layout:
        """Return the layout that a checked config asks for."""
        stored, prototypes = config.embeddings, config.prototypes
        return cls(
            data,
            stored.dtype,
            Sample(prototypes.per_class, prototypes.seed),
            prototypes.form and prototype_forms.get(prototypes.form).name,
            stored.views,
            stored.precision,
            tuple(prototypes.templates),
            tuple(
                (dataset.lower(), class_names.read(given, f"class_names.{dataset}"))
                for dataset, given in config.class_names.items()
            ),
        )

    def prompts(self, spec: DatasetSpec) -> Prompts:
        """Return what a text tower is shown of a dataset."""
        return Prompts(self.templates, self.names_of(spec))

    def names_of(self, spec: DatasetSpec) -> ClassNames | None:
        """Return what the user calls a dataset's classes; None: as in the dataset."""
        return dict(self.class_names).get(spec.name)

    @property
    def downloads(self) -> Path:
        return self.data / "datasets" / DOWNLOADS

    def dataset(self, spec: DatasetSpec) -> Path:
        return self.data / "datasets" / spec.name

    def thumbnails(self, spec: DatasetSpec, side: int) -> tuple[Path, Identity]:
        """Return folder and identity of a dataset's thumbnails for students of `side` pixels."""
        identity = spec.thumbnails_identity(side)
        return self.data / "thumbnails" / spec.name / fingerprint(identity), identity

    def teacher(self, spec: TeacherSpec) -> Path:
        return self.data / "teachers" / (spec.checkpoint or spec.name) / fingerprint(spec.identity())

    def embeddings(self, dataset: DatasetSpec, teacher: TeacherSpec, views: Views) -> Embeddings:
        """Return the embeddings of a view set."""
        identity = embeddings_identity(dataset, teacher, views, self.dtype, self.precision)
        folder = self.data / "embeddings" / dataset.name / teacher.name / fingerprint(identity)
        return Embeddings(dataset, teacher, views, self.dtype, folder, self.precision, self.names_of(dataset))

    def full_embeddings(self, cell: Cell, teacher: TeacherSpec | None = None) -> Embeddings:
        """Return the embeddings of every image that the cell's recipe asks for, by its teacher or another."""
        teacher = teacher or cell.teacher_spec
        assert teacher is not None
        views = full_views(cell.recipe_spec, cell.dataset_spec, cell.student_spec, teacher)
        return self.embeddings(cell.dataset_spec, teacher, views)

    def replayed_embeddings(self, cell: Cell) -> Embeddings:
        """Return the embeddings of the random views that a `replayed` run trains on."""
        teacher = cell.teacher_spec
        assert teacher is not None
        views = replay_views(cell.recipe_spec, cell.dataset_spec, cell.student_spec, teacher, self.views)
        return self.embeddings(cell.dataset_spec, teacher, views)

    def stores(self, cell: Cell) -> dict[str, Embeddings]:
        """Return the embeddings that a cell's run is made from, by the kind of their views; of one teacher."""
        signal, source = cell.method.signal, cell.teacher_source
        if signal == "nothing":
            return {}
        if signal == "prototypes":
            return {"full" if self.labelled_sample(cell) else "sample": self.sample_embeddings(cell)}
        replayed = {"replayed": self.replayed_embeddings(cell)} if source == "replayed" else {}
        full = {"full": self.full_embeddings(cell)} if signal == "scores" or source == "cached" else {}
        return replayed | full

    def form_of(self, cell: Cell) -> str:
        """Return the form of the cell's class prototypes."""
        return self.form or cell.recipe_spec.prototype_form

    def prototypes(self, cell: Cell) -> tuple[Path, Identity]:
        """Return folder and identity of the cell's class prototypes."""
        return self.sample_embeddings(cell).prototypes(self.form_of(cell), self.labelled_sample(cell))

    def head(self, cell: Cell) -> tuple[Path, Identity]:
        """Return folder and identity of the class scores of the cell's teacher."""
        return self.full_embeddings(cell).head(cell.few_labels)

    def labelled_sample(self, cell: Cell) -> Labelled | None:
        """Return the labelled images that the cell's class prototypes are made of; None: they need no few labels."""
        teacher = cell.teacher_spec
        if cell.few_labels is None or teacher is None or teacher.is_per_class:
            return None
        return Labelled(cell.few_labels, self.sample.per_class)

    def sample_embeddings(self, cell: Cell) -> Embeddings:
        """Return the embeddings of the few images, or prompts, per class that become prototypes.

        With few labels those of every image, which are stored once whatever images are labelled.
        """
        teacher = cell.teacher_spec
        assert teacher is not None
        if self.labelled_sample(cell):
            return self.full_embeddings(cell)
        if teacher.reads_names:
            return self.embeddings(cell.dataset_spec, teacher, self.prompts(cell.dataset_spec))
        views = prototype_views(cell.recipe_spec, cell.dataset_spec, teacher, self.sample)
        return self.embeddings(cell.dataset_spec, teacher, views)
