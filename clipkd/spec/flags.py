"""Cells and settings as the flags of `clipkd` that rules pass; settings name their own flags. No torch here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clipkd.plugins import methods, teachers
from clipkd.plugins.teachers import OWN
from clipkd.spec import class_names
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.prompts import TEMPLATES
from clipkd.spec.settings import Config, Hyperparameters

AXES = {
    "train_type": "--train-type",
    "dataset": "--dataset-name",
    "teacher": "--teacher-model",
    "student": "--student",
    "seed": "--seed",
    "recipe": "--recipe",
    "teacher_source": "--teacher-source",
}
"""Axis of the grid -> the flag that takes its value (the first three are those of the paper's released code)."""
RUN_AXES = ("train_type", "teacher", "seed")
"""What the runs of one job may differ in."""


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
    return names_flags(config, cell) if has_matched_teacher(cell) else []


def has_matched_teacher(cell: Cell) -> bool:
    """Return whether the own classifier of one of a cell's teachers is matched by name."""
    return any(spec.matches_names(cell.dataset) for spec in cell.teacher_specs)


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
    flags = []
    if not all(spec.is_per_class for spec in cell.teacher_specs):
        flags += config.prototypes.flags("per_class", "seed")
    if reads_names(cell):
        flags += template_flags(config) + names_flags(config, cell)
    return flags


def reads_names(cell: Cell) -> bool:
    """Return whether one of a cell's teachers is a text tower: only the jobs of these depend on prompts."""
    return any(spec.reads_names for spec in cell.teacher_specs)


def template_flags(config: Config) -> list[Any]:
    """Return the flags that say what prompts are made of, where these are not the usual ones."""
    templates = config.prototypes.templates
    return [] if tuple(templates) == TEMPLATES else [f"--template={template}" for template in templates]


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


def run_flags(config: Config, cells: Sequence[Cell]) -> list[Any]:
    """Return the flags that name the runs of a job, which share all but their train types, teachers and seeds."""
    first = cells[0]
    flags = axis_flags(first, "dataset", "student", "recipe", "teacher_source")
    flags += first.hyperparameters(config).flags(*Hyperparameters.model_fields)
    flags += source_flags(config, first.dataset) + dtype_flags(config)
    by_class = [cell for cell in cells if cell.method.signal == "prototypes"]
    by_name = [cell for cell in by_class if reads_names(cell)]
    scored = [cell for cell in cells if cell.method.signal == "scores" and has_matched_teacher(cell)]
    if by_class:
        flags += config.prototypes.flags("per_class", "seed") + form_flags(config)
    if by_name:
        flags += template_flags(config)
    if by_name or scored:
        flags += names_flags(config, first)
    if first.teacher_source == "replayed":
        flags += config.embeddings.flags("views")
    return flags + labels_flags(first, with_seed=False) + axes_of_runs(cells)


def axes_of_runs(cells: Sequence[Cell]) -> list[Any]:
    """Return the flags of what runs of a job differ in; and which they are, if not every combination of these."""
    types, every, seeds = ([*dict.fromkeys(getattr(cell, axis) for cell in cells)] for axis in RUN_AXES)
    named = [teachers.of_seeds(name, seeds) for name in every if name != NO_TEACHER] or every
    combined = {
        (one, teacher if methods.get(one).signal != "nothing" else NO_TEACHER, seed)
        for one, teacher, seed in itertools.product(types, named, seeds)
    }
    asked = {(cell.train_type, teachers.of_seeds(cell.teacher, seeds), cell.seed) for cell in cells}
    flags = [AXES["train_type"], *types, AXES["teacher"], *named, AXES["seed"], *seeds]
    return flags if combined == asked else [*flags, "--only", *(cell.folder for cell in cells)]
