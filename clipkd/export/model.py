"""A trained student in use: its network, its classes and its preprocessing in one object."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clipkd.core import device as devices
from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact, read_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json
from clipkd.data.image_files import read_images
from clipkd.data.preprocessing import Picture, Preprocessing
from clipkd.export.files import CONFIG, DISTILLATION, EXPORT, WEIGHTS
from clipkd.plugins.students import PROJECTION_HEAD
from clipkd.plugins.students._described import described_student
from clipkd.plugins.students._heads import Outputs
from clipkd.plugins.teachers._student import CONTENT
from clipkd.runs.correct import CORRECT
from clipkd.runs.folder import CHECKPOINTS, load_student
from clipkd.runs.record import KIND as RUN
from clipkd.runs.record import RESUME, how_to_finish, runs_below
from clipkd.spec.class_names import ClassNames

BATCH_SIZE = 64
TOP = 5


class Prediction(NamedTuple):
    """A class and the student's probability for it."""

    label: str
    probability: float


@dataclass(frozen=True)
class FilePrediction:
    """The likeliest classes of one image file, or what is wrong with it."""

    path: Path
    predictions: list[Prediction]
    error: DataError | None = None


@dataclass(frozen=True)
class Model:
    """A trained student, ready for images."""

    student: nn.Module
    """Maps inputs [B, 3, S, S] to `Outputs`; in evaluation mode."""
    classes: list[str]
    """The dataset's own class names, in the order of the student's scores."""
    preprocessing: Preprocessing
    device: torch.device
    trained: dict[str, Any]
    """Dataset, recipe, teacher, train type and seed of its run."""
    manifest: dict[str, Any]
    """Of the run or export that it was loaded from."""
    class_names: list[str] | None = None
    """What predictions call the classes; None: their names in the dataset."""

    @property
    def names(self) -> list[str]:
        """What predictions call the classes, in the order of the student's scores."""
        return self.class_names or self.classes

    @property
    def parameters(self) -> int:
        """The weights that an image's classes depend on, without heads that only its own training used."""
        named = self.student.named_parameters()
        return sum(weight.numel() for name, weight in named if not name.startswith(PROJECTION_HEAD))

    def predict(
        self, images: Picture | Sequence[Picture], top: int = TOP, batch_size: int = BATCH_SIZE
    ) -> list[list[Prediction]]:
        """Return the `top` likeliest classes of each image, the likeliest first.

        Args:
            images: one or more image files, PIL images, or pixels, uint8 [H, W, 3].
            top: how many classes; all, where there are fewer.
            batch_size: images per forward pass.

        Raises:
            DataError: an image can't be read; the message names it.
        """
        return [self.top(row, top) for row in self.probabilities(images, batch_size)]

    def probabilities(self, images: Picture | Sequence[Picture], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return the probability of each class for each image, float32 [N, C]; arguments as for `predict`.

        Raises:
            InputError: the student was trained without labels.
        """
        self.refuse_without_classes()
        return self.outputs(images, batch_size, softmax)

    def embed(self, images: Picture | Sequence[Picture], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return the embedding of each image, float32 [N, W]; arguments as for `predict`."""
        return self.outputs(images, batch_size, lambda outputs: outputs.embedding)

    def outputs(
        self, images: Picture | Sequence[Picture], batch_size: int, part: Callable[[Outputs], Tensor]
    ) -> np.ndarray:
        """Return one part of the student's outputs for each image, [N, ...]."""
        pictures = [images] if isinstance(images, str | Path | Image.Image | np.ndarray) else images
        if not len(pictures):
            raise InputError("no images given")
        found = []
        for start in range(0, len(pictures), batch_size):
            batch = [self.preprocessing.read(picture) for picture in pictures[start : start + batch_size]]
            found.append(self.forward(batch, part))
        return np.concatenate(found)

    def refuse_without_classes(self) -> None:
        """Raise InputError where the student was trained without labels, and so tells no classes apart."""
        if not self.classes:
            raise InputError("this student was trained without labels and has no classes to predict; use its `embed`")

    @torch.inference_mode()
    def forward(self, images: Sequence[np.ndarray], part: Callable[[Outputs], Tensor]) -> np.ndarray:
        """Return one part of the student's outputs for images of its own size, uint8 [S, S, 3]."""
        return part(self.student(self.preprocessing.inputs(images, self.device))).float().cpu().numpy()

    def top(self, probabilities: np.ndarray, count: int) -> list[Prediction]:
        """Return the likeliest classes of one image; equal ones in the order of the classes."""
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [Prediction(self.names[number], float(probabilities[number])) for number in order]

    def predict_files(
        self, paths: Iterable[Path], top: int = TOP, batch_size: int = BATCH_SIZE
    ) -> Iterator[FilePrediction]:
        """Return a prediction for each image file, in order; an unreadable one does not stop the others.

        Raises:
            InputError: the student was trained without labels.
        """
        self.refuse_without_classes()
        return self.of_files(paths, top, batch_size)

    def of_files(self, paths: Iterable[Path], top: int, batch_size: int) -> Iterator[FilePrediction]:
        """Yield what `predict_files` returns."""
        items = read_images(paths, self.preprocessing)
        while batch := list(itertools.islice(items, batch_size)):
            readable = [image for _, image in batch if isinstance(image, np.ndarray)]
            rows = iter(self.forward(readable, softmax) if readable else ())
            for path, image in batch:
                if isinstance(image, DataError):
                    yield FilePrediction(path, [], image)
                else:
                    yield FilePrediction(path, self.top(next(rows), top))


def softmax(outputs: Outputs) -> Tensor:
    """Return class probabilities [B, C]."""
    return outputs.logits.softmax(dim=1)


def load(path: str | Path, device: str = "auto", class_names: ClassNames | None = None) -> Model:
    """Load a trained student with its preprocessing.

    Args:
        path: a run folder, or a folder that `clipkd export` wrote (safetensors or hf).
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        class_names: what predictions call the classes (`clipkd.spec.class_names.from_file`); None: as in the run.

    Raises:
        InputError: there is no such folder, it is an export without PyTorch weights, or `class_names` do not fit.
        DataError: a file is damaged, or the run was written before class names were kept.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        if (folder / RESUME).is_dir():
            raise InputError(f"{folder} holds an unfinished run: {how_to_finish(folder)}")
        raise InputError(f"{folder} is neither a run folder nor an export: it has no {MANIFEST}{runs_below(folder)}")
    manifest, where = read_manifest(folder), devices.choose(device)
    if manifest["kind"] == RUN:
        model = build(open_run(folder, manifest), where)
    elif manifest["kind"] == EXPORT:
        model = build(open_export(folder, manifest), where)
    else:
        raise InputError(f"{folder} holds {manifest['kind']}, not a trained student")
    return replace(model, class_names=class_names.of(model.classes)) if class_names else model


class StoredStudent(NamedTuple):
    """A student on disk."""

    artifact: Artifact
    weights: Path
    description: dict[str, Any]
    """Its `student`, `classes` and `preprocessing`, and how it was `trained`."""


def open_run(folder: Path, manifest: dict[str, Any]) -> StoredStudent:
    """Open the student of a run folder."""
    names = [name for name in manifest["files"] if Path(name).suffix in CHECKPOINTS and name != CORRECT]
    if not names:
        raise InputError(f"{folder} holds no student: --ckpt-save-name put it elsewhere")
    artifact = open_artifact(folder, RUN, only=names)
    if not {"classes", "preprocessing"} <= artifact.facts.keys():
        raise DataError(
            f"{folder} was written before runs kept their class names and preprocessing; "
            "delete it and train it again, or use `clipkd evaluate` with the student's file"
        )
    identity = artifact.identity
    trained = identity["cell"] | {CONTENT: identity["dataset"]["content"]}
    origin = {"student": identity["student"], "trained": trained}
    return StoredStudent(artifact, folder / names[0], artifact.facts | origin)


def open_export(folder: Path, manifest: dict[str, Any]) -> StoredStudent:
    """Open the student of a folder that `clipkd export` wrote."""
    if WEIGHTS not in manifest["files"]:
        raise InputError(f"{folder} has no PyTorch weights; use the run folder, or an export as safetensors or hf")
    read = [name for name in (CONFIG, WEIGHTS, DISTILLATION) if name in manifest["files"]]  # its README may be edited
    return StoredStudent(
        open_artifact(folder, EXPORT, only=read), folder / WEIGHTS, read_json(folder / CONFIG)["clipkd"]
    )


def build(stored: StoredStudent, device: torch.device) -> Model:
    """Build the student and load its weights."""
    description, beside = stored.description, stored.weights.with_name(DISTILLATION)
    aside = load_student(beside) if beside.is_file() else None
    student = described_student(description, load_student(stored.weights), stored.weights, aside).to(device).eval()
    steps = Preprocessing.from_facts(description["preprocessing"])
    class_names = description.get("class_names")
    manifest, trained = stored.artifact.manifest, description["trained"]
    return Model(student, description["classes"], steps, device, trained, manifest, class_names)
