"""`clipkd train`: takes the flags of the paper's released code."""

from __future__ import annotations

import argparse
import itertools
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipkd.cli.options import (
    cell_of,
    data_options,
    device_of,
    device_options,
    form_options,
    labels_option,
    layout_of,
    positive,
    seed,
    setting_option,
    store_options,
)
from clipkd.core.errors import InputError, nearest
from clipkd.core.fingerprint import Identity, differences
from clipkd.core.progress import say
from clipkd.embeddings import prepare
from clipkd.plugins import methods, recipes
from clipkd.runs import epoch_size, unused, workers
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.grid import differing
from clipkd.spec.identities import agree, as_settings, run_identity
from clipkd.spec.layout import RUNS
from clipkd.spec.settings import Block, EmbeddingSettings, Hyperparameters
from clipkd.workflow import stamps

if TYPE_CHECKING:
    import torch

    from clipkd.runs.assignment import Assignment

TEXT = """Train a student, or one for each combination of several recipes, teachers, train types and seeds. Missing
embeddings and prototypes are made first; complete runs are kept."""
EXAMPLES = """\
examples:
  clipkd train --dataset-name digits --teacher-model digits-vit-s --train-type embed-KD --student tiny-32
  clipkd train --dataset-name digits --train-type supervised --student tiny-32 --seed 0 1 2 3
  clipkd train --dataset-name birds --dataset-source photos/birds --train-type supervised --student base-64
"""

SEVERAL = ("recipe", "teacher_model", "train_type", "seed")
"""Options with several values: one student is trained for each combination."""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    store_options(child, several=True)
    form_options(child)
    device_options(child)
    # The first three, with --dataset-name and --teacher-model, are the released code's.
    child.add_argument(
        "--train-type", nargs="+", required=True, help="embed-KD, teacher-KD, vanilla, supervised or a control"
    )
    child.add_argument(
        "--log-folder",
        type=Path,
        help="the run's folder (default: results/runs/<recipe>/<dataset>/...); for several students, the folder in "
        "which their run folders <recipe>/<dataset>/... are made",
    )
    child.add_argument(
        "--ckpt-save-name",
        type=Path,
        help="student file, .pt or .safetensors; a bare name is put in the log folder (default: student.safetensors)",
    )
    child.add_argument(
        "--seed", nargs="+", type=seed, default=[0], help="random seed of weights, order, flips and dropout"
    )
    child.add_argument(
        "--only",
        nargs="+",
        metavar="RUN",
        help="train only those combinations whose run folder is named, such as "
        "corrected/digits/tiny-32/none/supervised/seed0",
    )
    child.add_argument(
        "--processes", type=positive, help="on a CPU, students trained at a time (default: one per core, if several)"
    )
    child.add_argument(
        "--stack", type=positive, help="students of equal shape computed at once (default: 8 on a GPU, else 1)"
    )
    child.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a run of other settings in the same folder: its results stay until the new run is complete",
    )
    child.add_argument(
        "--stamp",
        type=Path,
        metavar="FILE",
        help="file to write when every student is complete; for workflows",
    )
    labels_option(child)
    setting_option(child, Block, "teacher_source")
    for name, field in Hyperparameters.model_fields.items():
        help = f"{field.description} A recipe may set its own. (default: {field.default})"
        changes = {"default": None, "help": help} if name in recipes.HYPERPARAMETERS else {}
        setting_option(child, Hyperparameters, name, **changes)
    setting_option(child, EmbeddingSettings, "batch_size")


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """Return the cell of each combination, each once: without a teacher, one cell for all teachers.

    Raises:
        InputError: a combination is impossible (with --only: one of those), two are one run, or --only names none.
    """
    cells: dict[str, Cell] = {}
    problem: InputError | None = None
    for values in itertools.product(*(getattr(options, name) for name in SEVERAL)):
        one = argparse.Namespace(**vars(options) | dict(zip(SEVERAL, values, strict=True)))
        one.epochs = numbers_of(options, one.recipe).epochs
        try:
            cell = cell_of(one, one.train_type)
        except InputError as error:
            if not options.only:
                raise
            problem = problem or error
            continue
        earlier = cells.setdefault(cell.folder, cell)
        if earlier != cell:
            raise InputError(
                f"two of the combinations are the run {cell.folder}, with {differing(earlier, cell)}: give each a name "
                "of its own, as NAME=... before it"
            )
    if options.only is None:
        return list(cells.values())
    if unknown := [name for name in options.only if name not in cells]:
        why = f" ({problem})" if problem else nearest(unknown[0], cells)
        raise InputError(f"--only {unknown[0]}: the options combine to no such run{why}")
    return [cells[name] for name in dict.fromkeys(options.only)]


def numbers_of(options: argparse.Namespace, recipe: str) -> Hyperparameters:
    """Return the hyperparameters of the runs of a recipe: its own, then the options', then the defaults.

    Raises:
        InputError: an option says something else than the recipe.
    """
    given = {name: getattr(options, name) for name in Hyperparameters.model_fields}
    given = {name: value for name, value in given.items() if value is not None}
    spec = recipes.get(recipe)
    own = spec.hyperparameters()
    for name in own:
        if given.get(name, own[name]) != own[name]:
            flag = Hyperparameters.flag(name)
            raise InputError(f"recipe '{recipe}' sets {name} to {own[name]}, {flag} says {given[name]}: leave out one")
    return Hyperparameters(**given).of_recipe(spec)


def run(options: argparse.Namespace) -> None:
    cells = cells_of(options)
    place, is_first = places(options, cells), os.environ.get("RANK", "0") == "0"
    if not options.stamp and is_first:  # of a workflow's jobs its main process says it
        for line in prepare.stale_sources(cells, layout_of(options)):
            say(f"warning: {line}")
        if named := unused_teachers(options):
            say(f"none of the train types uses a teacher, so --teacher-model {' '.join(named)} is not used")
    train_all(options, cells, place)
    if options.stamp and is_first:
        stamps.write(options.stamp, [place[cell.folder][0] for cell in cells])


def unused_teachers(options: argparse.Namespace) -> list[str]:
    """Return the teachers that the options name for nothing, since no train type learns from one."""
    if any(methods.get(name).signal != "nothing" for name in options.train_type):
        return []
    return [name for name in options.teacher_model if name != NO_TEACHER]


def train_all(options: argparse.Namespace, cells: list[Cell], place: dict[str, tuple[Path, Path | None]]) -> None:
    """Train the cells' students, alone, in processes or in stacks."""
    if len(cells) > 1 and "WORLD_SIZE" in os.environ:
        raise InputError("torchrun trains one student: give one value of each option")
    if (options.processes or 1) > 1 and (options.stack or 1) > 1:
        raise InputError("--processes and --stack can't be combined: one student per process, or several in one")
    if len(cells) > 1 and options.device != "cuda" and options.stack in (None, 1) and options.processes != 1:
        workers.start_server()
    from clipkd.runs import start
    from clipkd.runs.assignment import Assignment

    device, layout = device_of(options), layout_of(options)
    numbers = {cell.recipe: numbers_of(options, cell.recipe) for cell in cells}
    more = options.embed_batch_size, options.overwrite
    assignments = [
        Assignment(cell, numbers[cell.recipe], layout, str(device), *place[cell.folder], *more) for cell in cells
    ]
    if not options.overwrite:
        refuse_other_settings(assignments)
    refuse_too_few_images(assignments)
    assignments = [with_precision(one, device) for one in assignments]
    is_first = os.environ.get("RANK", "0") == "0"
    with unused.removed_if_unused(one.folder for one in assignments if is_first):
        for one in assignments:
            one.run_folder()
        if len(assignments) == 1:
            start.train_alone(assignments[0])
        else:
            start.train_several(assignments, options.processes, options.stack, options.threads)


def refuse_too_few_images(assignments: list[Assignment]) -> None:
    """Raise InputError where a dataset whose size is known is too small for the labels or the batch size."""
    from clipkd.runs.ranks import world_size

    for one in assignments:
        count, size = epoch_size.image_count(one.cell, one.layout.data), one.numbers.batch_size
        if count is not None:
            epoch_size.steps_of(count, size, one.cell, partial(epoch_size.has_batch_norm, one.cell), world_size())


def settings_of(assignment: Assignment) -> Identity:
    """Return what makes a run, but for the content of its images: it is known only once they are packed."""
    from clipkd.runs.ranks import world_size

    return run_identity(assignment.cell, assignment.numbers, assignment.layout, content="", ranks=world_size())


def refuse_other_settings(assignments: list[Assignment]) -> None:
    """Raise InputError where a folder holds a run, finished or not, that these settings would replace.

    The images' content is compared too, but later.
    """
    from clipkd.runs.folder import held_by, runs_in

    for one in assignments:
        settings = settings_of(one)
        for what, identity in runs_in(one.folder):
            if lines := list(differences(as_settings(identity, settings), settings)):
                raise InputError(held_by(one.folder, what, lines))


def with_precision(assignment: Assignment, device: torch.device) -> Assignment:
    """Return an assignment with the format that `precision: auto` stands for.

    A run that its folder holds, finished or not, and that differs in nothing else keeps the format that it has: neither
    an upgrade nor another machine trains it again.
    """
    from clipkd.core.device import has_tf32
    from clipkd.runs.folder import runs_in
    from clipkd.runs.precision import resolved

    numbers = assignment.numbers
    if numbers.precision != "auto":
        return assignment
    settings = settings_of(assignment)
    held = [
        identity["training"]["precision"] for _, identity in runs_in(assignment.folder) if agree(identity, settings)
    ]
    here = resolved("auto", device, assignment.cell.student_spec)
    chosen = held[0] if held else here
    if chosen == "tf32" and not has_tf32(device):
        raise InputError(
            f"{assignment.folder} holds a run in tf32, which this device ({device}) does not have: take a GPU from "
            "Ampere on, or name the precision to train it in here (precision: fp32)"
        )
    if chosen != here:
        say(f"{assignment.folder} holds a run in {chosen}, which it keeps; precision: auto would be {here} here")
    return replace(assignment, numbers=numbers.model_copy(update={"precision": chosen}))


def places(options: argparse.Namespace, cells: list[Cell]) -> dict[str, tuple[Path, Path | None]]:
    """Return each cell's run folder and student file (None: the usual one)."""
    name = options.ckpt_save_name
    is_bare = name is None or name.parent == Path()
    if len(cells) > 1 and not is_bare:
        raise InputError(f"--ckpt-save-name {name}: several students can't share a file; give a bare name")
    found = {}
    for cell in cells:
        folder = options.log_folder or RUNS / cell.folder
        if options.log_folder and len(cells) > 1:
            folder = options.log_folder / cell.folder
        found[cell.folder] = (folder, folder / name if is_bare and name else name)
    return found
