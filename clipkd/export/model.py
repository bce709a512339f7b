"""A trained student in use: its network, its classes and its preprocessing in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clipkd.core import device as devices
from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact, read_json, read_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.data.image_files import read_images
from clipkd.data.preprocessing import Picture, Preprocessing
from clipkd.export.formats import CONFIG, EXPORT, WEIGHTS
from clipkd.plugins import students
from clipkd.plugins.students._heads import Outputs
from clipkd.runs.folder import load_student
from clipkd.runs.load_student import student_from
from clipkd.runs.record import KIND as RUN
from clipkd.spec.class_names import ClassNames

BATCH_SIZE = 64
TOP = 5
CHECKPOINTS = {".safetensors", ".pt", ".pth"}


class Prediction(NamedTuple):
    """A class and the student's probability for it."""

    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What came of one image file: its likeliest classes, or what is wrong with it."""

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
    """What predictions call the classes; None: as the dataset."""

    @property
    def names(self) -> list[str]:
        """What predictions call the classes, in the order of the student's scores."""
        return self.class_names or self.classes

    def predict(
        self, images: Picture | Sequence[Picture], top: int = TOP, batch_size: int = BATCH_SIZE
    ) -> list[list[Prediction]]:
        """Return the `top` likeliest classes of each image, the likeliest first.

        Args:
            images: one or more image files, PIL images, or pixels, uint8 [H, W, 3].
            top: how many classes; all, where there are fewer.
            batch_size: images that go through the student at once.

        Raises:
            DataError: an image can't be read; it is named.
        """
        return [self.ranked(row, top) for row in self.probabilities(images, batch_size)]

    def probabilities(self, images: Picture | Sequence[Picture], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return the probability of each class for each image, float32 [N, C]; arguments as for `predict`."""
        return self.outputs(images, batch_size, scored)

    def embed(self, images: Picture | Sequence[Picture], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """Return the embedding of each image, float32 [N, W]; arguments as for `predict`."""
        return self.outputs(images, batch_size, lambda outputs: outputs.embedding)

    def outputs(
        self, images: Picture | Sequence[Picture], batch_size: int, part: Callable[[Outputs], Tensor]
    ) -> np.ndarray:
        """Return one part of what the student makes of each image, [N, ...]."""
        pictures = [images] if isinstance(images, str | Path | Image.Image | np.ndarray) else images
        if not len(pictures):
            raise InputError("there is no image to look at")
        found = []
        for start in range(0, len(pictures), batch_size):
            found.append(self.look([self.preprocessing.read(p) for p in pictures[start : start + batch_size]], part))
        return np.concatenate(found)

    @torch.inference_mode()
    def look(self, images: Sequence[np.ndarray], part: Callable[[Outputs], Tensor]) -> np.ndarray:
        """Return one part of what the student makes of images that have its size, uint8 [S, S, 3]."""
        return part(self.student(self.preprocessing.inputs(images, self.device))).float().cpu().numpy()

    def ranked(self, probabilities: np.ndarray, top: int) -> list[Prediction]:
        """Return the likeliest classes of one image; equal ones in the order of the classes."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [Prediction(self.names[number], float(probabilities[number])) for number in order]

    def answers(self, paths: Iterable[Path], top: int = TOP, batch_size: int = BATCH_SIZE) -> Iterator[Answer]:
        """Yield an answer for each image file, in order; a bad one does not stop the others."""
        waiting: list[tuple[Path, np.ndarray | DataError]] = []
        for item in read_images(paths, self.preprocessing):
            waiting.append(item)
            if len(waiting) == batch_size:
                yield from self.answered(waiting, top)
                waiting = []
        yield from self.answered(waiting, top)

    def answered(self, items: Sequence[tuple[Path, np.ndarray | DataError]], top: int) -> Iterator[Answer]:
        """Yield the answers for one batch."""
        good = [image for _, image in items if isinstance(image, np.ndarray)]
        rows = iter(self.look(good, scored) if good else ())
        for path, image in items:
            if isinstance(image, DataError):
                yield Answer(path, [], image)
            else:
                yield Answer(path, self.ranked(next(rows), top))


def scored(outputs: Outputs) -> Tensor:
    """Return class probabilities [B, C]."""
    return outputs.logits.softmax(dim=1)


def load(path: str | Path, device: str = "auto", class_names: ClassNames | None = None) -> Model:
    """Load a trained student with its preprocessing.

    Args:
        path: a run folder, or a folder that `clipkd export` wrote (safetensors or hf).
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        class_names: what predictions call the classes (`clipkd.spec.class_names.from_file`); None: as the run was told.

    Raises:
        InputError: there is no such folder, it is an export without PyTorch weights, or `class_names` are of others.
        DataError: a file is damaged, or the run was written before class names were kept.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is neither a run folder nor an export: it has no {MANIFEST}")
    where = devices.choose(device)
    manifest = read_manifest(folder)
    if manifest["kind"] == RUN:
        model = loaded(open_run(folder, manifest), where)
    elif manifest["kind"] == EXPORT:
        model = loaded(open_export(folder, manifest), where)
    else:
        raise InputError(f"{folder} holds {manifest['kind']}, not a trained student")
    return replace(model, class_names=class_names.of(model.classes)) if class_names else model


class Stored(NamedTuple):
    """A student on disk."""

    artifact: Artifact
    weights: Path
    described: dict[str, Any]
    """Its `student`, `classes` and `preprocessing`, and how it was `trained`."""


def open_run(folder: Path, manifest: dict[str, Any]) -> Stored:
    """Open the student of a run folder."""
    names = [name for name in manifest["files"] if Path(name).suffix in CHECKPOINTS]
    if not names:
        raise InputError(f"{folder} holds no student: its --ckpt-save-name was a path elsewhere")
    artifact = open_artifact(folder, RUN, only=names)
    if not {"classes", "preprocessing"} <= artifact.facts.keys():
        raise DataError(
            f"{folder} was written before runs kept their class names and preprocessing; "
            "remove it and train it again, or use `clipkd evaluate` with the student's file"
        )
    made = {"student": artifact.identity["student"], "trained": artifact.identity["cell"]}
    return Stored(artifact, folder / names[0], artifact.facts | made)


def open_export(folder: Path, manifest: dict[str, Any]) -> Stored:
    """Open the student of a folder that `clipkd export` wrote."""
    if WEIGHTS not in manifest["files"]:
        raise InputError(f"{folder} holds no PyTorch weights; give the run folder, or an export as safetensors or hf")
    artifact = open_artifact(folder, EXPORT, only=[CONFIG, WEIGHTS])  # its README may be edited
    return Stored(artifact, folder / WEIGHTS, read_json(folder / CONFIG)["clipkd"])


def loaded(stored: Stored, device: torch.device) -> Model:
    """Build the student and put its weights in."""
    described = stored.described
    spec = students.rebuilt(described["student"])
    state = load_student(stored.weights)
    if described.get("names") == "transformers":
        from clipkd.export.clip_names import from_transformers

        state = from_transformers(state)
    student = student_from(state, spec, stored.weights).to(device).eval()
    classes, steps = described["classes"], Preprocessing.from_facts(described["preprocessing"])
    named = described.get("class_names")
    return Model(student, classes, steps, device, described["trained"], stored.artifact.manifest, named)
