"""The cells of a grid: every combination that its blocks ask for. No torch here: the Snakefile reads this."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import fingerprint
from clipkd.plugins import datasets, methods, recipes, students, teachers
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.teachers import TrainedCNN
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Block, Config


def expand(config: Config) -> tuple[list[Cell], list[str]]:
    """Return the cells of a checked config, each once, and what was left out and why.

    A method without a teacher makes one cell, not one per teacher. Where no stored signal is exact
    the teacher runs live.

    Raises:
        InputError: an unknown name, an impossible combination, or two blocks that ask for the same
            run with different epochs.
    """
    cells: dict[str, tuple[Cell, str]] = {}
    left_out: dict[str, None] = {}
    for number, block in enumerate(config.grid):
        where = config.place(number)
        for cell in placed(block_cells(block, config, left_out), where):
            earlier, other = cells.setdefault(cell.folder, (cell, where))
            if earlier != cell:
                advice = "; give each a name of its own under `teachers`" if cell.teacher != earlier.teacher else ""
                asked = differing(cell, earlier)
                raise InputError(f"{where} and {other} both ask for the run {cell.folder}, with {asked}{advice}")
    found = [cell for cell, _ in cells.values()]
    refuse_mixture(found, config)
    return found, list(left_out)


def differing(one: Cell, other: Cell) -> str:
    """Return, in words, in what two cells differ that would share a folder."""
    axes = {"recipes": "recipe", "students": "student", "teachers": "teacher", "epochs": "epochs"}
    pairs = {name: (getattr(one, axis), getattr(other, axis)) for name, axis in axes.items()}
    return "; ".join(f"{mine} and {its} {name}" for name, (mine, its) in pairs.items() if mine != its)


def placed(cells: Iterator[Cell], where: str) -> Iterator[Cell]:
    """Yield the cells of a block; an error about them names the block's place first."""
    try:
        yield from cells
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from None


@contextlib.contextmanager
def block_named(cell: Cell, config: Config) -> Iterator[None]:
    """Let an InputError about a cell begin with the place of the first block that asks for it."""
    try:
        yield
    except InputError as problem:
        for number, block in enumerate(config.grid):
            if cell.kind in {one.kind for one in block_cells(block, config, {})}:
                raise InputError(f"{config.place(number)}: {problem}") from None
        raise


def refuse_mixture(cells: list[Cell], config: Config) -> None:
    """Raise InputError where a table's row would hold runs on stored views and on new ones, or of several lengths."""
    lengths: dict[Cell, Cell] = {}
    for cell in cells:
        other = lengths.setdefault(replace(cell, strength=None, epochs=0, seed=0), cell)
        if other.epochs != cell.epochs:
            with block_named(cell, config):
                raise InputError(
                    f"{cell.folder} has {cell.epochs} epochs and {other.folder} {other.epochs}: they would share one "
                    "table row; give all the same epochs, or split them into two grids"
                )
    rows = {cell: replace(cell, teacher_source="cached", strength=None, epochs=0, seed=0) for cell in cells}
    fresh = {row for cell, row in rows.items() if cell.teacher_source != "replayed"}
    for cell, row in rows.items():
        if cell.teacher_source == "replayed" and row in fresh:
            with block_named(cell, config):
                raise InputError(
                    f"the grid asks for {cell.folder} and for the same run on views that are new in every epoch: they "
                    "differ in their mathematics but would share one table row; split them into two grids"
                )


def block_cells(block: Block, config: Config, left_out: dict[str, None]) -> Iterator[Cell]:
    """Yield the cells of one block of the grid."""
    usable = [name for name in block.datasets if usable_dataset(name, config, left_out)]
    for name in usable:
        spec = datasets.get(name, config.source(name))
        if set(block.labels) != {"none"} and spec.known_classes(config.source(name)) == []:
            raise InputError(
                f"no image of dataset '{spec.name}' has a label, in folders of classes or a labels.csv: write "
                "labels: [none] to train without (docs/few-labels.md)"
            )
    axes = (config.recipes_of(block), usable, block.students, block.labels, block.train_types, block.seeds)

    # Names are looked up, and cells checked, once for all seeds.
    @cache
    def teacher_of(name: str, dataset: str) -> tuple[str, str]:
        teacher = trained_on(config.resolved(name), dataset, config.source)
        reason = teachers.get(teacher).available
        return "" if reason else teacher_name(teacher), reason

    @cache
    def checked_kind(kind: Cell) -> Cell:
        return checked(kind)

    for recipe, dataset, student, labels, train_type, seed in itertools.product(*axes):
        source = config.source(dataset)
        spec, method = datasets.get(dataset, source), methods.get(train_type)
        cell = Cell(
            recipe=recipes.spelled(recipe),
            dataset=spec.name,
            student=students.spelled(student),
            teacher=NO_TEACHER,
            train_type=method.name,
            seed=seed,
            teacher_source=block.teacher_source,
            epochs=epochs_of(block, recipes.get(recipe), config),
            source=source,
            labels=labels,
        )
        if method.signal == "nothing":
            yield replace(checked_kind(cell.kind), seed=seed)
            continue
        if not block.teachers:
            raise InputError(f"train type '{method.name}' needs a teacher: name one under teachers")
        for name in block.teachers:
            teacher, reason = teacher_of(name, spec.name)
            if reason:
                left_out[reason] = None
            else:
                cell = replace(cell, teacher=teacher)
                yield replace(checked_kind(cell.kind), seed=seed)


def epochs_of(block: Block | None, recipe: Recipe, config: Config) -> int:
    """Return how many epochs a run has: the block's or the recipe's, else those under `training`."""
    asked = block.epochs if block else None
    if asked and recipe.epochs:
        raise InputError(
            f"a block of the grid sets epochs to {asked}, its recipe '{recipe.name}' to {recipe.epochs}: leave out one"
        )
    return asked or recipe.epochs or config.training.epochs


def trained_on(name: str, dataset: str, source_of: Callable[[str], str | None]) -> str:
    """Return a teacher's name with the dataset that it is trained on: that of the cell, where it names no other.

    Args:
        name: the teacher, or several, as the command line takes it.
        dataset: the name of the cell's dataset.
        source_of: says where a dataset's data are; None: at the official place.
    """
    members = []
    for member in teachers.split(name):
        spec = teachers.get(member)
        if isinstance(spec, TrainedCNN) and spec.name not in teachers.names():
            on = spec.dataset or dataset
            source = source_of(on)
            data = fingerprint(datasets.get(on, source).identity()) if source else spec.data
            members.append(teachers.on_dataset(member, on, data))
        else:
            members.append(member)
    return "+".join(members) + name.removeprefix(teachers.options_of(name)[0])


def teacher_name(name: str) -> str:
    """Return a teacher's name in cells: its key, or, without a file of its own, the name it was given by."""
    key = teachers.get(name).name
    return key if key in teachers.names() else teachers.spelled(name)


def usable_dataset(name: str, config: Config, left_out: dict[str, None]) -> bool:
    """Return whether the dataset's data can be had; note in `left_out` why not."""
    spec = datasets.get(name, config.source(name))
    if spec.needs_source and spec.name not in config.sources:
        where = f"sources: {{{spec.name}: FOLDER}}"
        left_out[f"dataset '{spec.name}' is never downloaded: give its folder as {where}"] = None
        return False
    return True
