"""Open classes: a student trained with a text tower's prototypes can predict a class that is given by its name.

    classes = of_run(Path("results/runs/..."), Layout(), device).adding(["zebra"])
    names = classes.predict(inputs)

A class that was added after training has no row in the classifier: the student's projected embedding is compared
with the text tower's embedding of its name, as with those of the other classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clipkd.core.artifacts import MANIFEST, open_artifact, read_manifest
from clipkd.core.errors import InputError
from clipkd.core.fingerprint import Identity, fingerprint
from clipkd.core.typed_json import read_model
from clipkd.embeddings.text import load_text
from clipkd.export.model import load
from clipkd.plugins import methods, prototype_forms, recipes, teachers
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.students._heads import Heads, Outputs
from clipkd.plugins.teachers import TeacherSpec
from clipkd.runs.nearest_prototype import similarities
from clipkd.runs.record import KIND, METRICS, Metrics
from clipkd.spec.cells import NO_TEACHER
from clipkd.spec.layout import Layout
from clipkd.spec.prompts import prompts


@dataclass(frozen=True)
class OpenClasses:
    """A trained student and the prototypes of its classes."""

    student: Heads
    recipe: Recipe
    names: tuple[str, ...]
    prototypes: Tensor
    """[C, D], in the order of `names`."""
    teacher: TeacherSpec
    identity: Identity
    """Of the prototypes: it holds their templates and form."""
    layout: Layout

    def adding(self, names: Sequence[str]) -> OpenClasses:
        """Return the same with more classes, each given by its name.

        Raises:
            InputError: a class has that name already.
            DataError: the text tower's checkpoint is missing or damaged.
        """
        for place, name in enumerate(names):
            if name in self.names or name in names[:place]:
                raise InputError(f"class '{name}' exists already (known: {', '.join(self.names)})")
        if not names:
            return self
        vectors = torch.from_numpy(self.vectors(names)).to(self.prototypes)
        return replace(self, names=(*self.names, *names), prototypes=torch.cat([self.prototypes, vectors]))

    def vectors(self, names: Sequence[str]) -> np.ndarray:
        """Return the prototypes [K, D] of class names, made as those of training were."""
        templates = tuple(self.identity["embeddings"]["views"]["templates"])
        tower = load_text(self.teacher, self.layout.teacher(self.teacher), self.prototypes.device)
        embeddings = np.concatenate([tower.embed(prompts(name, templates)) for name in names])
        labels = np.repeat(np.arange(len(names)), len(templates))
        form = prototype_forms.get(self.identity["form"])
        made: np.ndarray = form.prototypes(embeddings, labels, len(names))["prototypes"]
        return made

    def network(self) -> ByPrototype:
        """Return a student whose class scores are those of `scores`."""
        return ByPrototype(self).eval()

    @torch.inference_mode()
    def scores(self, inputs: Tensor) -> Tensor:
        """Return the similarities [B, C] of normalised images [B, 3, S, S] with every class."""
        outputs: Outputs = self.network()(inputs)
        return outputs.logits

    def predict(self, inputs: Tensor) -> list[str]:
        """Return the name of each image's nearest class."""
        return [self.names[number] for number in self.scores(inputs).argmax(dim=1).tolist()]


class ByPrototype(nn.Module):
    """A student whose class scores are its similarities with the prototypes."""

    def __init__(self, classes: OpenClasses) -> None:
        super().__init__()
        self.classes, self.body = classes, classes.student

    def forward(self, images: Tensor) -> Outputs:
        """Return embedding [B, W] and similarities [B, C] of normalised images [B, 3, S, S]."""
        embedding = self.body(images).embedding
        return Outputs(embedding, similarities(self.body, embedding, [self.classes.prototypes], self.classes.recipe))


def of_run(folder: Path, layout: Layout, device: torch.device) -> OpenClasses:
    """Return the classes of a finished run, open to more.

    Raises:
        InputError: it is an export, or the run's prototypes are not a text tower's, so a name alone is not enough.
        DataError: the run or its prototypes are missing or damaged.
    """
    if (folder / MANIFEST).exists() and read_manifest(folder)["kind"] != KIND:
        raise InputError(f"{folder} is an export; to add a class, give the run folder that it was made from")
    metrics = read_model(folder / METRICS, Metrics)
    cell, signal = metrics.cell, metrics.identity["signal"]
    teacher = teachers.get(cell.teacher) if cell.teacher != NO_TEACHER else None
    is_control = methods.get(cell.train_type).control_of is not None
    if teacher is None or not teacher.reads_names or is_control or "prototypes" not in signal:
        raise InputError(
            f"{folder}: a class can only be added by name to a run of embed-KD with one text tower as its teacher "
            f"(MODEL:text); this is {cell.train_type} with teacher {cell.teacher}"
        )
    identity = signal["prototypes"]
    artifact = open_artifact(folder_of(cell.dataset, teacher, identity, layout), "prototypes", identity)
    student = load(folder, device.type).student
    assert isinstance(student, Heads)
    prototypes = torch.from_numpy(artifact.array("prototypes").copy()).to(device)
    names, recipe = tuple(artifact.facts["class_names"]), recipes.get(cell.recipe)
    return OpenClasses(student, recipe, names, prototypes, teacher, identity, layout)


def folder_of(dataset: str, teacher: TeacherSpec, identity: Identity, layout: Layout) -> Path:
    """Return where a run's prototypes lie."""
    name = f"{fingerprint(identity['embeddings'])}-prototypes-{fingerprint(identity)}"
    return layout.data / "embeddings" / dataset / teacher.name / name
