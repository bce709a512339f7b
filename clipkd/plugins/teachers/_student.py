"""Students that were trained here, as teachers: a run of the same grid, or a folder that holds a run or an export.

`run:RECIPE/DATASET/STUDENT/TEACHER/TRAIN_TYPE/seedN` names a run by its place below results/runs, done or not: its
settings are its identity (`clipkd.spec.chains` adds their fingerprint, `@<16 hex digits>`). `seed*` in place of `seedN`
is the run with the seed of the student that it teaches. A folder holds a student that is there; its weights and what
they are for are its identity.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from os.path import expanduser
from pathlib import Path
from typing import Any

from clipkd.core.errors import DataError, InputError
from clipkd.core.files import read_json, sha256_once
from clipkd.core.fingerprint import Identity, digest
from clipkd.plugins.teachers._names import RUN, is_folder
from clipkd.plugins.teachers._spec import OWN, Output, TeacherSpec, slug

KIND, STUDENT, WEIGHTS, CONFIG = "run", "student.safetensors", "model.safetensors", "config.json"
"""Of a run folder, and of an export."""
FEW_LABELS = "few_labels"
"""In a run's identity, and in what an export says of the training: number and seed of the labels; None: all."""

FEW = re.compile(r"^[^/]+/([^/]+)/.*-(\d+)-labels/seed(\d+)$")
"""A run's folder, where it saw few labels: dataset, number, seed."""
UNLABELLED = re.compile(r"-no-labels/seed[\d*]+$")
"""The end of a run's folder, where it saw no labels."""
CONTENT = "dataset_content"
"""What is said of a student's training: the content of its dataset (clipkd/data/dataset.py)."""
NEEDED = {"student", "classes", "preprocessing", "trained"}
"""What must be said of a student."""


@dataclass(frozen=True)
class StudentTeacher(TeacherSpec):
    """A trained student; what is taken of it is what its classifier sees."""

    run: str = ""
    """A run's folder below results/runs, where it is planned, or the place of one that is done; "": an export."""
    settings: str = ""
    """The fingerprint of the run's settings, where it is named by its place in the grid."""
    folder: str = ""
    """The folder that holds it, where it is named by that."""
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of the folder's weights, and digest of what is said of them."""
    few_labels: tuple[str, int, int] | None = None
    """Dataset, number and seed of the few labels that it was trained with; None: all, or it does not say."""
    says_labels: bool = True
    """False of an export that an older version wrote, which does not say whether it saw all labels."""
    content: str = ""
    """Of the dataset that the folder's student was trained on; "": it does not say."""

    @property
    def files(self) -> tuple[str, ...]:
        return (CONFIG, WEIGHTS)

    def identity(self) -> Identity:
        return {"run": self.settings} if self.settings else {"student": self.digests}


def student(where: str, output: Output | None) -> TeacherSpec | None:
    """Return the teacher that a run or a folder with one of our students is; None where `where` is neither."""
    if where.startswith("run:"):
        spec = in_grid(where)
    elif is_folder(where) and (found := described(Path(expanduser(where)))):
        spec = in_folder(Path(expanduser(where)), *found)
    else:
        return None
    if output not in (None, "pooled"):
        raise InputError(
            f"teacher '{where.partition('@')[0]}:{output}': of a trained student only what its classifier sees is "
            f"taken; leave the ':{output}' out"
        )
    return spec


def in_grid(where: str) -> StudentTeacher:
    """Return a run of the grid as a teacher."""
    named = RUN.fullmatch(where)
    if named is None:
        raise InputError(
            f"teacher '{where}': name a run by its folder below results/runs: "
            "run:RECIPE/DATASET/STUDENT/TEACHER/TRAIN_TYPE/seedN (or seed*: for each student the run of its own seed)"
        )
    run, settings = named[1], named[2] or ""
    if not settings:
        raise InputError(
            f"teacher '{where}': name a run of the grid under `teachers` in a config, which says how it is trained; "
            f"elsewhere name the folder of one that is done, results/runs/{run}"
        )
    name = f"{slug(run)[:70]}-{(settings if len(settings) == 16 else digest(settings))[:8]}"
    return StudentTeacher(
        name=name, title=run, output="pooled", head=head_of(run.split("/")[1], bool(UNLABELLED.search(run))),
        run=run, settings=settings, few_labels=few_labels_in(run),
    )  # fmt: skip


def in_folder(folder: Path, weights: Path, description: dict[str, Any]) -> StudentTeacher:
    """Return the student in a folder as a teacher."""
    sha256 = sha256_once(weights)
    trained = description["trained"]
    few = trained.get(FEW_LABELS)
    name = f"{slug(str(trained['student']))}-{slug(str(trained['train_type']))}-{sha256[:8]}"
    return StudentTeacher(
        name=name,
        title=title_of(folder),
        output="pooled",
        head=head_of(trained["dataset"], not description["classes"]),
        folder=str(folder),
        digests={"weights": sha256, "description": digest(essential(description))},
        few_labels=(trained["dataset"], few["labels"], few["seed"]) if few else None,
        says_labels=FEW_LABELS in trained,
        content=trained.get(CONTENT, ""),
    )


def few_labels_in(run: str) -> tuple[str, int, int] | None:
    """Return dataset, number and seed of the few labels that a run saw, from its place in the grid; None: all."""
    found = FEW.search(run)
    return (found[1], int(found[2]), int(found[3])) if found else None


def head_of(dataset: str, is_without: bool) -> str:
    """Return where class scores come from: its own classifier on its own dataset; none `is_without` labels."""
    return "" if is_without else f"{OWN}@{dataset}"


def title_of(folder: Path) -> str:
    """Return what a student in a folder is called: of a run its place in the grid, which `seed0` alone does not say."""
    place = "/".join(folder.resolve().parts[-6:])
    return place if RUN.fullmatch(f"run:{place}") else folder.resolve().name


def described(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the weights of the student in a folder and what is said of it; None where the folder holds none.

    Raises:
        InputError: it holds a run without a student in it, or one that is not done.
        DataError: what is said of the student is damaged.
    """
    from clipkd.core.artifacts import MANIFEST, read_manifest

    if (folder / CONFIG).is_file():
        found = None
        with suppress(DataError):  # what another kind of teacher says, better
            found = read_json(folder / CONFIG)
        description = found.get("clipkd") if isinstance(found, dict) else None
        if description is None:
            return None
        weights = folder / WEIGHTS
    elif (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        if manifest["kind"] != KIND:
            return None
        weights, description = folder / STUDENT, of_run(manifest, folder)
    elif (folder / ".resume").is_dir():
        raise InputError(f"{folder} holds a run that is not complete: train it first, or name it as `run:...`")
    else:
        return None
    if not isinstance(description, dict) or not description.keys() >= NEEDED:
        raise DataError(f"{folder} does not say how its student was trained; train or export it again")
    if not weights.is_file():
        raise InputError(
            f"{folder} holds no {weights.name}: as a teacher, give a run folder with its {STUDENT}, or an export as "
            "safetensors or hf"
        )
    return weights, description


def of_run(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a run's manifest says of its student, as an export's config.json does."""
    facts, identity = manifest["facts"], manifest["identity"]
    if not {"classes", "preprocessing"} <= facts.keys():
        raise DataError(f"{folder} was written before runs kept their classes and preprocessing; train it again")
    kept = {name: facts[name] for name in ("classes", "preprocessing")}
    trained = identity["cell"] | {FEW_LABELS: identity.get(FEW_LABELS), CONTENT: identity["dataset"]["content"]}
    return kept | {"student": identity["student"], "trained": trained}


def essential(description: dict[str, Any]) -> dict[str, Any]:
    """Return the part of what is said of a student that its embeddings and scores depend on."""
    return {name: description.get(name) for name in ("student", "classes", "preprocessing", "names")}
