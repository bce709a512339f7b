"""Cells and settings as the flags of `clipkd` that rules pass; settings name their own flags. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clipkd.plugins import teachers
from clipkd.plugins.teachers import OWN
from clipkd.spec import class_names
from clipkd.spec.cells import Cell
from clipkd.spec.prompts import TEMPLATES
from clipkd.spec.settings import Config, Hyperparameters

AXES = {
    "train_type": "--train-type",
    "dataset": "--dataset-name",
    "teacher": "--teacher-model",
    "student": "--student",
    "recipe": "--recipe",
    "teacher_source": "--teacher-source",
}
"""Axis of the grid -> the flag that takes its value (the first three are those of the paper's released code)."""


def axis_flags(cell: Cell, *axes: str) -> list[Any]:
    """Return the flags that name a cell's axes."""
    return [word for axis in axes for word in (AXES[axis], getattr(cell, axis))]


def source_flags(config: Config, dataset: str) -> list[Any]:
    """Return the flag that says where a dataset's data are; nothing for the official place."""
    source = config.source(dataset)
    return ["--dataset-source", source] if source else []


def dtype_flags(config: Config) -> list[Any]:
    """Return the flags that say how embeddings are stored."""
    return config.embeddings.flags("dtype") + config.embeddings.flags("precision", unless_default=True)


def store_flags(config: Config, cell: Cell) -> list[Any]:
    """Return the flags that name an embedding store."""
    axes = axis_flags(replace(cell, teacher=cell.teacher_of_seed), "dataset", "teacher", "recipe", "student")
    return axes + source_flags(config, cell.dataset) + dtype_flags(config)


def head_flags(config: Config, cell: Cell) -> list[Any]:
    """Return the flags that say what classes are called, where a teacher's own classifier is matched by name."""
    specs = [one.teacher_spec for one in cell.by_teacher]
    is_matched = any(spec and spec.matches_names(cell.dataset) for spec in specs)
    return names_flags(config, cell) if is_matched else []


def has_scored_teacher(cell: Cell) -> bool:
    """Return whether the own classifier of a cell's one teacher scores the cell's dataset."""
    spec = cell.teacher_spec
    return spec is not None and spec.matches_names(cell.dataset)


def scored_flags(config: Config, cell: Cell) -> list[Any]:
    """Return the flags that fetch a checkpoint, unless its own classifier can't score the cell's dataset."""
    _, where, output = teachers.parsed(cell.teacher_of_seed)
    name = f"{where}:{output}" if output else where
    return [f"{name}?head={OWN}@{cell.dataset}", *source_flags(config, cell.dataset), *names_flags(config, cell)]


def names_flags(config: Config, cell: Cell) -> list[Any]:
    """Return the flag that says what a dataset's classes are called."""
    given = config.class_names.get(cell.dataset)
    return ["--class-names", class_names.option(given)] if given else []


def sample_flags(config: Config, cell: Cell) -> list[Any]:
    """Return the flags that say which images, or prompts, prototypes are made of."""
    prototypes, flags = config.prototypes, []
    specs = [one.teacher_spec for one in cell.by_teacher]
    if not all(spec and spec.is_per_class for spec in specs):
        flags += prototypes.flags("per_class", "seed")
    if any(spec and spec.reads_names for spec in specs):
        # Only the jobs of text towers depend on prompts and class names.
        if tuple(prototypes.templates) != TEMPLATES:
            flags += [f"--template={template}" for template in prototypes.templates]
        flags += names_flags(config, cell)
    return flags


def labels_flags(cell: Cell, with_seed: bool = True) -> list[Any]:
    """Return the flags that say how many labels are seen, and of which images; nothing for all."""
    if cell.labels == "all":
        return []
    return ["--labels", cell.labels, *(["--seed", cell.seed] if with_seed else [])]


def probe_flags(config: Config, cell: Cell) -> list[Any]:
    """Return the flags that make class scores of embeddings."""
    own = bool(cell.teacher_spec and cell.teacher_spec.brings_head(cell.dataset))
    return store_flags(config, cell) + head_flags(config, cell) + ([] if own else labels_flags(cell))


def form_flags(config: Config) -> list[Any]:
    """Return the flag that says what prototypes are, where the recipe's own form is not taken."""
    return config.prototypes.flags("form", unless_default=True)


def extract_flags(config: Config, cell: Cell, views: str) -> list[Any]:
    """Return the flags of an extraction."""
    more = {
        "full": head_flags(config, cell),
        "sample": sample_flags(config, cell),
        "replayed": config.embeddings.flags("views"),
    }
    return [*store_flags(config, cell), "--views", views, *more[views]]


def prototypes_flags(config: Config, cell: Cell) -> list[Any]:
    """Return the flags that make class prototypes."""
    made = store_flags(config, cell) + sample_flags(config, cell) + form_flags(config)
    return made + ([] if cell.teacher_spec and cell.teacher_spec.is_per_class else labels_flags(cell))


def run_flags(config: Config, cell: Cell, seeds: Sequence[int] = ()) -> list[Any]:
    """Return the flags that name a run, but for its seed; a change in them plans the run again.

    `seeds`: those of all runs of the job; none: the cell's alone.
    """
    cell = replace(cell, teacher=teachers.of_seeds(cell.teacher, seeds or [cell.seed]))
    flags = axis_flags(cell, "train_type", "dataset", "teacher", "student", "recipe", "teacher_source")
    flags += cell.hyperparameters(config).flags(*Hyperparameters.model_fields)
    flags += source_flags(config, cell.dataset) + dtype_flags(config)
    if cell.method.signal == "prototypes":
        flags += sample_flags(config, cell) + form_flags(config)
    if cell.method.signal == "scores":
        flags += head_flags(config, cell)
    if cell.teacher_source == "replayed":
        flags += config.embeddings.flags("views")
    return flags + labels_flags(cell, with_seed=False)
