"""View sets: which images a teacher sees, and how they are presented to it. No torch here.

Two view sets that differ in any field are different artefacts: the order of resizing and flipping,
and whose normalisation is used, change the embeddings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.recipes import Recipe, Strength
from clipkd.plugins.students import NetworkSpec
from clipkd.plugins.teachers import Output, TeacherSpec
from clipkd.spec.class_names import ClassNames
from clipkd.spec.settings import TeacherPrecision

PROTOCOL = 3
"""Bumped when the embeddings of an unchanged view set change."""

DRAWN_PROTOCOL = 2
"""Bumped when stored views that a recipe draws (clipkd/data/augmentation.py) become others for the same seed."""
REPLAY_PROTOCOL = 2
"""Bumped when stored random crops (clipkd/data/boxes.py) become others for the same seed."""

REPLAY_SEED = 0

POOLING = {
    "cls": "last layer's class token, before any pooler",
    "mean": "mean of the last layer's patch tokens",
    "pooler": "the model's own pooler",
    "pooled": "what the model's own classifier sees",
    "logits": "the model's own class scores",
}
"""What is taken of an image, in the words of identities."""
OF_TEXT = "the text tower's own"
"""What is taken of a class's name."""
BILINEAR, OWN = "bilinear, antialiased", "size, crop and filter of the checkpoint's image processor, antialiased"


@dataclass(frozen=True)
class Sample:
    """The first `per_class` training images of each class in an order shuffled by `seed`."""

    per_class: int | Literal["all"] = 100
    seed: int = 0


@dataclass(frozen=True)
class ViewSet:
    """How images are presented to a teacher."""

    resize: Literal["tensor", "image"]
    """`tensor`: flip, normalise, then resize the tensor. `image`: resize the 8-bit image, then flip
    and normalise."""
    source_size: int | None
    """Side to which an image is brought first, in pixels (the student's input); None: its own size."""
    image_size: int | None
    """The teacher's input side, in pixels; None: as the checkpoint says."""
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    """None: the checkpoint's own."""
    flips: bool
    """Every training image also flipped; without a sample only."""
    sample: Sample | None
    """None: every image of both splits. Otherwise only the sample, each image in one flip drawn by
    the sample's seed."""
    crop: bool = False
    """The sample's images are cropped at random (RandomResizedCrop), drawn by its seed."""
    replays: int = 0
    """Training images only, each in so many views, cropped and mirrored at random by REPLAY_SEED, to be replayed."""
    thumbnails: int | None = None
    """Replays: side of the thumbnails, in pixels, in which the boxes are drawn (the student's input)."""
    output: Output = "cls"
    """What is taken of the teacher."""
    mirrors: bool = True
    """Whether views that are drawn at random are mirrored, half of them."""
    augment: Strength | Literal["auto"] | None = None
    """Replays: the views are those that a recipe of this strength draws, at `source_size` (`auto`: none yet);
    None: crops."""
    fill: tuple[int, int, int] | None = None
    """Colour of what comes in from outside an image, 0 to 255."""

    @property
    def is_own(self) -> bool:
        """True where the checkpoint's image processor decides how an image is resized, cropped and normalised."""
        return self.resize == "tensor" and self.mean is None and self.source_size is None

    def identity(self) -> Identity:
        fields = asdict(self)
        output = fields.pop("output")
        unmirrored = {} if fields.pop("mirrors") else {"mirrors": False}
        drawn = {name: fields.pop(name) for name in ("augment", "fill")} | {"drawn_protocol": DRAWN_PROTOCOL}
        cropped = {"replay_protocol": REPLAY_PROTOCOL} if self.replays else {}
        resizing = {"interpolation": OWN if self.is_own else BILINEAR, "pooling": POOLING[output]}
        return fields | unmirrored | (drawn if self.augment else cropped) | resizing


@dataclass(frozen=True)
class ImportedViews:
    """Which of a teacher's imported vectors a store takes; how images were presented is not known."""

    sample: Sample | None = None
    """As of a ViewSet; None: those of every image."""
    flips: bool = False
    """Vectors of the mirrored training images too; without a sample only."""
    mirrors: bool = False
    """The sample's images are mirrored, half of them."""
    of_classes: bool = False
    """One vector of each class, in place of a sample's."""
    crop: ClassVar[bool] = False
    replays: ClassVar[int] = 0

    def identity(self) -> Identity:
        return asdict(self) | {"pooling": "imported"}


@dataclass(frozen=True)
class Prompts:
    """What a text tower is shown: every template with the name of every class."""

    templates: tuple[str, ...]
    names: ClassNames | None = None
    """What the classes are called; None: as in the dataset."""

    def identity(self) -> Identity:
        names = self.names.identity() if self.names else "the dataset's"
        return {"templates": list(self.templates), "class_names": names, "pooling": OF_TEXT}

    def of(self, classes: list[str]) -> list[str]:
        """Return what each of a dataset's classes is called."""
        return self.names.of(classes) if self.names else classes


Views = ViewSet | ImportedViews | Prompts
"""What a store is of."""


def full_views(recipe: Recipe, dataset: DatasetSpec, student: NetworkSpec, teacher: TeacherSpec) -> Views:
    """Return the views of every image of both splits.

    Where the training augmentation is a flip or none, they cover exactly what the teacher would be shown in
    training. Where it is random crops, they only serve the linear probe, and no flips are made.
    """
    if teacher.is_imported:
        return ImportedViews(flips=dataset.mirrors and not dataset.crops and teacher.has_mirrored)
    same_size = recipe.teacher_view == "native" or student.image_size == dataset.image_size or dataset.crops
    return ViewSet(
        resize="tensor",
        source_size=None if same_size else student.image_size,
        image_size=teacher.image_size,
        **normalisation(recipe, dataset, teacher),
        flips=dataset.mirrors and not dataset.crops,
        sample=None,
        output=teacher.output,
    )


def replay_views(
    recipe: Recipe, dataset: DatasetSpec, student: NetworkSpec, teacher: TeacherSpec, count: int
) -> ViewSet:
    """Return `count` random views of each training image, presented as a live teacher would be shown them."""
    draws = recipe.draws_views(dataset.crops)
    return ViewSet(
        resize="tensor",
        source_size=None if recipe.teacher_view == "native" and not draws else student.image_size,
        image_size=teacher.image_size,
        **normalisation(recipe, dataset, teacher),
        flips=False,
        sample=None,
        crop=True,
        replays=count,
        thumbnails=student.image_size if dataset.crops else None,
        output=teacher.output,
        mirrors=dataset.mirrors,
        augment=recipe.augment if draws else None,
        fill=dataset.mean_colour if draws else None,
    )


def prototype_views(recipe: Recipe, dataset: DatasetSpec, teacher: TeacherSpec, sample: Sample) -> Views:
    """Return the views of the few images per class that become class prototypes."""
    if teacher.is_imported and teacher.is_per_class:
        return ImportedViews(of_classes=True)
    if teacher.is_imported:
        return ImportedViews(sample, mirrors=dataset.mirrors and teacher.has_mirrored)
    return ViewSet(
        resize=recipe.prototype_resize,
        source_size=None,
        image_size=teacher.image_size,
        **normalisation(recipe, dataset, teacher),
        flips=False,
        sample=sample,
        crop=dataset.crops,
        output=teacher.output,
        mirrors=dataset.mirrors,
    )


def normalisation(recipe: Recipe, dataset: DatasetSpec, teacher: TeacherSpec) -> dict:
    """Return the mean and standard deviation that the recipe gives the teacher's input."""
    source = teacher if recipe.teacher_normalisation == "teacher" else dataset
    return {"mean": source.mean, "std": source.std}


def embeddings_identity(
    dataset: DatasetSpec,
    teacher: TeacherSpec,
    views: Views,
    dtype: str,
    precision: TeacherPrecision = "float32",
) -> Identity:
    """Return what makes an embeddings artefact: its digest is in the artefact's path."""
    return {
        "dataset": dataset.identity(),
        "teacher": teacher.identity(),
        **({} if teacher.is_imported else reduced(precision)),
        "views": views.identity(),
        "dtype": dtype,
        "protocol": PROTOCOL,
    }


def live_identity(teacher: TeacherSpec, precision: TeacherPrecision) -> Identity:
    """Return what makes the targets of a teacher that runs beside the training.

    Without the protocol up to its third: the runs that there are did not note it, and keep their identity.
    """
    protocol = {"protocol": PROTOCOL} if PROTOCOL > 3 else {}
    return teacher.identity() | reduced(precision) | protocol


def reduced(precision: TeacherPrecision) -> Identity:
    """Return what a reduced precision adds to an identity; nothing in float32."""
    return {} if precision == "float32" else {"precision": precision}


def prototypes_identity(embeddings: Identity, form: str) -> Identity:
    """Return what makes class prototypes: a pure function of the sample's embeddings."""
    return {"embeddings": embeddings, "form": form, "protocol": PROTOCOL}


def head_identity(embeddings: Identity, is_own: bool, names: ClassNames | None) -> Identity:
    """Return what makes a class-score head: the checkpoint's own, or a probe on the embeddings.

    Args:
        embeddings: the identity of what it scores.
        is_own: whether it is the checkpoint's own.
        names: what the user calls the classes, where the checkpoint's are matched with them by name.
    """
    named = {"class_names": names.identity()} if names else {}
    return {"embeddings": embeddings, "head": "checkpoint" if is_own else "linear probe", "protocol": PROTOCOL, **named}
