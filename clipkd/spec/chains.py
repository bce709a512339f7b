"""Chains: a run of the grid teaches another run. No torch here: the Snakefile reads this.

A teacher `run:RECIPE/DATASET/STUDENT/TEACHER/TRAIN_TYPE/seedN` is known by the fingerprint of that run's settings,
before the run exists. The settings hold those of its own teacher, and so on to the first. Of `seed*`, for each student
the run of its own seed, there is one fingerprint a seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

from clipkd.core.errors import InputError, nearest
from clipkd.core.fingerprint import fingerprint
from clipkd.plugins import methods, recipes, students, teachers
from clipkd.plugins.teachers import RUN, StudentTeacher
from clipkd.spec import grid, refusals
from clipkd.spec.cells import NO_TEACHER, ONE_VIEW, Cell
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Block, Config, OwnTeacher, TeacherSource

AXES = ("recipe", "dataset", "student", "teacher", "train_type", "seed")
"""What a run's folder is made of."""
LABELS = re.compile(r"-(\d+|no)-labels$")
"""The end of a train type in a run's folder, where few labels are seen, or none."""
EACH = "/seed*"
"""The end of a run that stands for those of all seeds."""


def pinned(config: Config, complaint: Callable[[str, str], InputError]) -> Config:
    """Return a config whose runs under `teachers` have the fingerprints of their settings.

    Args:
        config: a checked config.
        complaint: makes the error about a key of `teachers`: (key, message) -> error.

    Raises:
        InputError: a run is none of the grid's, or teaches itself.
    """
    names = [key for key, own in config.teachers.items() if run_of(own)]
    for key in names:
        config = pin(config, key, (), complaint)
    return config


def run_of(own: OwnTeacher) -> str:
    """Return the run's folder of a teacher that is one; "" of another."""
    _, where, _ = teachers.parsed(own.model)
    named = RUN.fullmatch(where)
    return named[1] if named else ""


def pin(config: Config, key: str, above: tuple[str, ...], complaint: Callable[[str, str], InputError]) -> Config:
    """Return a config in which one run under `teachers`, and before it each that teaches it, has its fingerprint."""
    if key in above:
        circle = " -> ".join([*above[above.index(key) :], key])
        raise complaint(key, f"these runs would teach each other in a circle: {circle}")
    run = run_of(config.teachers[key])
    for member in run.split("/")[3].partition(".")[0].split("+"):
        if member in config.teachers and run_of(config.teachers[member]):
            config = pin(config, member, (*above, key), complaint)
    try:
        if run.endswith(EACH):
            runs = {seed: f"{run.removesuffix(EACH)}/seed{seed}" for seed in seeds_of(config)}
            named = teachers.by_seed(run, {seed: settings_of(one, config) for seed, one in runs.items()})
        else:
            named = f"run:{run}@{settings_of(run, config)}"
    except InputError as problem:
        raise complaint(key, f"run:{run}: {problem}") from None
    own = config.teachers[key]
    model = RUN.sub(named, own.model)
    return config.model_copy(update={"teachers": {**config.teachers, key: own.model_copy(update={"model": model})}})


def settings_of(run: str, config: Config) -> str:
    """Return the fingerprint of the settings of a run of the grid."""
    cell = cell_of(run, config)
    return fingerprint(run_identity(cell, cell.hyperparameters(config), Layout.of(config), content=""))


def seeds_of(config: Config) -> list[int]:
    """Return the seeds that students or runs that teach them may have."""
    named = [run.rpartition("/seed")[2] for own in config.teachers.values() if (run := run_of(own))]
    return sorted({0, *(seed for block in config.grid for seed in block.seeds), *map(int, filter(str.isdigit, named))})


def expand(config: Config) -> tuple[list[Cell], list[str]]:
    """Return the cells of a checked config and of the runs that teach them, and what was left out and why.

    Raises as `clipkd.spec.grid.expand`, and InputError where nothing is left; the message says why.
    """
    found, left_out = grid.expand(config)
    folders = {cell.folder for cell in found}
    kinds: set[Cell] = set()
    for cell in found:  # it grows: who teaches may be taught itself
        if cell.kind in kinds:  # seeds have the same teacher
            continue
        kinds.add(cell.kind)
        for spec in cell.teacher_specs:
            if isinstance(spec, StudentTeacher) and spec.settings and spec.run not in folders:
                folders.add(spec.run)
                found.append(cell_of(spec.run, config))
    if not found:
        listed = "".join(f"\n  {reason}" for reason in left_out)
        raise InputError(f"nothing is left of the grid:{listed}")
    grid.refuse_mixture(found, config)
    return found, left_out


def generations(found: list[Cell]) -> dict[str, int]:
    """Return how many runs of the grid teach each other before a cell's own, by its folder: 0 where none does."""
    by_folder = {cell.folder: cell for cell in found}

    @cache
    def generation(folder: str) -> int:
        cell = by_folder.get(folder)
        specs = cell.teacher_specs if cell else ()
        before = [generation(spec.run) for spec in specs if isinstance(spec, StudentTeacher) and spec.settings]
        return 1 + max(before) if before else 0

    return {folder: generation(folder) for folder in by_folder}


def cell_of(run: str, config: Config) -> Cell:
    """Return the cell of a run's folder: the grid's own, or else one with the numbers under `training`.

    Raises:
        InputError: a part of the folder's name is unknown, or no run has this folder.
    """
    names = dict(zip(AXES, run.split("/"), strict=True))
    named = LABELS.search(names["train_type"])
    method, source = train_type(LABELS.sub("", names["train_type"]).removesuffix(ONE_VIEW))
    teacher = NO_TEACHER if names["teacher"] == NO_TEACHER else teacher_of(names["teacher"], names["dataset"], config)
    if (methods.get(method).signal != "nothing") == (teacher == NO_TEACHER):
        raise InputError(f"train type '{method}' has {'a' if teacher == NO_TEACHER else 'no'} teacher")
    if teacher != NO_TEACHER and (reason := teachers.get(teacher).available):
        raise InputError(reason)
    recipe = recipe_of(names["recipe"], config)
    cell = Cell(
        recipe=recipe,
        dataset=names["dataset"],
        student=spelled(names["student"], config),
        teacher=teacher,
        train_type=method,
        seed=int(names["seed"].removeprefix("seed")),
        source=config.source(names["dataset"]),
        labels="all" if not named else "none" if named[1] == "no" else int(named[1]),
    )
    blocks = [block for block in config.grid if asks_for(block, cell, names["teacher"], config)]
    given = recipes.get(recipe)
    for block in [*blocks, None]:
        where = block.teacher_source if block else source
        found = refusals.checked(replace(cell, teacher_source=where, epochs=grid.epochs_of(block, given, config)))
        if found.folder == run:
            return found
    raise InputError(f"no run has this folder; the nearest is {found.folder}")


def train_type(name: str) -> tuple[str, TeacherSource]:
    """Return a train type and where its teacher's signal comes from, from their part of a run's folder."""
    sources: tuple[TeacherSource, ...] = ("live", "lazy", "replayed")
    for source in sources:
        if name.endswith(f"-{source}"):
            return methods.get(name.removesuffix(f"-{source}")).name, source
    return methods.get(name).name, "cached"


def asks_for(block: Block, cell: Cell, teacher: str, config: Config) -> bool:
    """Return whether a block of the grid has a cell, whose teacher is called `teacher` in its folder."""
    given = known(lambda name: teachers.get(config.resolved(name)), block.teachers)
    return (
        cell.recipe_spec.name in known(recipes.get, config.recipes_of(block))
        and cell.dataset in {name.lower() for name in block.datasets}
        and cell.student_spec.name in known(students.get, block.students)
        and cell.train_type in known(methods.get, block.train_types)
        and cell.seed in block.seeds
        and cell.labels in block.labels
        and (teacher == NO_TEACHER or teacher in given)
    )


def known(get: Callable[[str], Any], names: Iterable[str]) -> dict[str, str]:
    """Return the key of each thing that names name -> that name; what is unknown is said where the grid is checked."""
    found: dict[str, str] = {}
    for name in names:
        with suppress(InputError):
            found.setdefault(get(name).name, name)
    return found


def recipe_of(name: str, config: Config) -> str:
    """Return the recipe that a run's folder names, as cells hold it."""
    given = known(recipes.get, [one for block in config.grid for one in config.recipes_of(block)])
    return recipes.spelled(given.get(name) or config.named_recipes(name)[0])


def teacher_of(name: str, dataset: str, config: Config) -> str:
    """Return the teacher that a run's folder names, as cells hold it; InputError where none has this name."""
    given = [name, *(one for block in config.grid for one in block.teachers)]
    found = known(lambda one: teachers.get(config.resolved(one)), given)
    if name in config.teachers and name not in found:
        teachers.get(config.resolved(name))  # says what is wrong with it
    if name not in found:
        raise InputError(f"no teacher is called '{name}'{nearest(name, [*teachers.names(), *config.teachers, *found])}")
    return grid.teacher_name(grid.trained_on(config.resolved(found[name]), dataset, config.source))


def spelled(name: str, config: Config) -> str:
    """Return the student that a run's folder names, as cells hold it."""
    found = known(students.get, [one for block in config.grid for one in block.students])
    return students.spelled(found.get(name, name))
