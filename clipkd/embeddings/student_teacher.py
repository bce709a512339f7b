"""A trained student as a teacher: brought from its run or export, and shown images as when it was evaluated."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipkd.core.artifacts import MANIFEST, Artifact, building, open_artifact, read_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json, sha256, write_json
from clipkd.core.fingerprint import digest, fingerprint
from clipkd.data.pixels import planes, square, unit
from clipkd.data.preprocessing import Preprocessing
from clipkd.embeddings.encoder import Encoder, check_output, on_device
from clipkd.embeddings.processor import Processor
from clipkd.embeddings.weights import check_weights
from clipkd.plugins.students._described import described_student
from clipkd.plugins.teachers import StudentTeacher, TeacherSpec
from clipkd.plugins.teachers._student import CONFIG, KIND, STUDENT, WEIGHTS, described, essential
from clipkd.spec.identities import as_settings
from clipkd.spec.layout import RUNS


def bring(teacher: StudentTeacher, folder: Path) -> None:
    """Copy a student into `folder`, as a teacher artefact with config.json and model.safetensors.

    Raises:
        InputError: the run is not complete, or was trained with other settings.
        DataError: the student is damaged, or another one than the teacher stands for.
    """
    source = RUNS / teacher.run if teacher.settings else Path(teacher.folder)
    weights, description = sound(teacher, source)
    with building(folder, "teacher", teacher.identity()) as draft:
        shutil.copyfile(weights, draft.path / WEIGHTS)
        brought = sha256(draft.path / WEIGHTS)
        if teacher.digests and teacher.digests != {"weights": brought, "description": digest(essential(description))}:
            raise DataError(f"teacher '{teacher.name}': {source} has changed while it was read; start again")
        write_json(draft.path / CONFIG, {"clipkd": description})
        check_weights(teacher, draft.path / WEIGHTS)
        network(draft.path / WEIGHTS, description)
        state = load_file(draft.path / WEIGHTS)
        parameters = sum(tensor.numel() for tensor in state.values())
        draft.facts |= {"source": "student", "from": str(source), "parameters": parameters, "weights_sha256": brought}


def sound(teacher: StudentTeacher, source: Path) -> tuple[Path, dict[str, Any]]:
    """Return the weights of a student and what is said of them; both are what its run or export wrote."""
    if teacher.settings and not (source / MANIFEST).exists():
        raise InputError(
            f"teacher '{teacher.name}': the run {source} is not complete; the workflow trains it first, or train it "
            "with `clipkd train`"
        )
    found = described(source)
    if found is None:
        raise InputError(f"teacher '{teacher.name}': {source} holds no trained student")
    if (source / MANIFEST).exists():
        kind = read_manifest(source)["kind"]
        opened = open_artifact(source, kind, only=[found[0].name, *([CONFIG] if kind != KIND else [])])
        if teacher.settings:
            refuse_others(teacher, opened)
    return found


def refuse_others(teacher: StudentTeacher, run: Artifact) -> None:
    """Raise InputError where a run was trained with other settings than the teacher stands for."""
    identity = run.identity
    precisions = {identity["training"]["precision"], "auto"}
    if teacher.settings not in {
        fingerprint(as_settings(identity, {"training": {"precision": precision}})) for precision in precisions
    }:
        raise InputError(
            f"teacher '{teacher.name}': the run {run.path} was trained with other settings than the config's; the "
            "workflow trains it again"
        )


def refuse_retrained(teacher: StudentTeacher, folder: Path) -> None:
    """Raise DataError where a run was trained again since its student became a teacher, and gave another student."""
    path = RUNS / teacher.run / MANIFEST
    if not teacher.settings or not path.exists():
        return
    now = read_manifest(path.parent)["files"].get(STUDENT, {}).get("sha256")
    before = read_manifest(folder)["facts"]["weights_sha256"]
    if now not in (None, before):
        raise DataError(
            f"teacher '{teacher.name}': {path.parent} was trained again since its student was copied to {folder}, with "
            f"other weights as a result (sha256 {before[:12]}... then, {now[:12]}... now); delete {folder} and the "
            "teacher's stores below data/embeddings to make them again"
        )


def network(path: Path, description: dict[str, Any]) -> torch.nn.Module:
    """Return the student that a file of weights holds; DataError where it does not fit what is said of it."""
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged, or not a safetensors file: {error}") from None
    student = described_student(description, state, path)  # without what only its own training uses, its projections
    if student.classifier.out_features != len(description["classes"]):
        raise DataError(f"{path} tells {student.classifier.out_features} classes apart, but names "
                        f"{len(description['classes'])}")  # fmt: skip
    return student


def encoder(spec: TeacherSpec, artifact: Artifact, device: torch.device, is_float32: bool) -> Encoder:
    """Load a student as an encoder: its embedding is what its classifier sees.

    Raises:
        DataError: the weights do not fit the student that config.json describes.
    """
    check_output(spec, ("pooled",), "a trained student")
    description = read_json(artifact.file(CONFIG))["clipkd"]
    student: Any = on_device(network(artifact.file(WEIGHTS), description), spec, device)
    steps = Preprocessing.from_facts(description["preprocessing"])
    return Encoder(
        model=student,
        embed=lambda inputs: student(inputs).embedding,
        width=student.classifier.in_features,
        processor=StudentProcessor.of(steps),
        head=student.classifier,
    )


@dataclass(frozen=True)
class StudentProcessor(Processor):
    """What a student's images went through: resized in 8 bits, first to the side of its dataset's images."""

    dataset_size: int | None = None

    @classmethod
    def of(cls, steps: Preprocessing) -> StudentProcessor:
        """Return a run's preprocessing as an image processor."""
        side = steps.size
        return cls(side, side, None, "bilinear", steps.mean, steps.std, dataset_size=steps.dataset_size)

    def resized(self, pixels: Tensor) -> Tensor:
        sides = [side for side in (self.dataset_size, self.height) if side is not None]
        if pixels.shape[-2:] == (self.height, self.height) and sides[0] == self.height:
            return pixels
        images = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        for side in sides:
            images = np.stack([square(image, side) for image in images])
        return unit(planes(images).to(pixels.device))
