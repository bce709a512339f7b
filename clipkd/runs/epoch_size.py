"""How many images and steps an epoch has, by numbers alone: for a check before any work, and for the run. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from clipkd.core.errors import InputError
from clipkd.data.labelled import divided, images_shown
from clipkd.spec.cells import Cell
from clipkd.spec.grid import block_named
from clipkd.spec.settings import Config
from clipkd.spec.strength import packed_facts


def steps_of(count: int, size: int, cell: Cell, has_batch_norm: Callable[[], bool], ranks: int = 1) -> int:
    """Return the steps of an epoch.

    Args:
        count: images of an epoch.
        size: images of a batch.
        cell: the run.
        has_batch_norm: whether its student has batch normalisation; asked only where that matters.
        ranks: processes that train the student together.

    Raises:
        InputError: the batch size does not go with so many images, or with so many processes.
    """
    refuse_batches_below(ranks, count, size, cell.recipe_spec.drop_last)
    if cell.recipe_spec.drop_last:
        if count < size:
            raise InputError(
                f"batch size {size} is larger than the {count:,} training images of {cell.dataset_spec.title}: give a "
                "smaller one (batch_size in a config, --batch-size)"
            )
        return count // size
    if count % size == 1 and has_batch_norm():
        raise InputError(
            f"the last batch of an epoch has one image ({count:,} training images in batches of "
            f"{size}), and batch normalisation in student '{cell.student}' needs two: change the batch "
            "size by one"
        )
    return math.ceil(count / size)


def refuse_batches_below(ranks: int, count: int, size: int, drop_last: bool) -> None:
    """Raise InputError where a batch of an epoch has no image for some rank: a network can't compute none.

    Args:
        ranks: processes that each batch is divided among.
        count: images of an epoch.
        size: images of a batch.
        drop_last: a smaller last batch is left out.
    """

    def smallest(whole: int) -> int:
        return whole if drop_last else count % whole or whole

    if smallest(size) >= ranks:
        return
    sound = [whole for whole in range(ranks, count + 1) if smallest(whole) >= ranks]
    advice = f"take --batch-size {min(sound, key=lambda whole: abs(whole - size))}, or " if sound else ""
    raise InputError(
        f"the smallest batch of an epoch has {smallest(size)} of the {count:,} training images (batch size {size}); "
        f"each of the {ranks} processes needs one: {advice}start fewer processes"
    )


def check(cells: Iterable[Cell], config: Config, data: Path) -> None:
    """Raise InputError where a dataset is too small for labels or a batch size; nothing where its size is not known.

    It is known of a packed dataset, and of one that is the same everywhere.
    """
    for cell in {(one.dataset, one.recipe, one.student, one.labels, one.epochs): one for one in cells}.values():
        with block_named(cell, config):
            count = image_count(cell, data)
            if count is not None:
                steps_of(count, cell.hyperparameters(config).batch_size, cell, partial(has_batch_norm, cell))


def image_count(cell: Cell, data: Path) -> int | None:
    """Return how many images an epoch of a run has; None: only packing its dataset tells.

    Raises:
        InputError: there are fewer labels than it asks for.
    """
    spec, recipe, few = cell.dataset_spec, cell.recipe_spec, cell.few_labels
    facts = packed_facts(spec, data) or {}
    counts = (facts["train"], facts["validation"]) if facts else spec.counts
    if counts is None:
        return None
    train, held_out = counts
    shown = train - held_out if recipe.selection == "validation" else train
    kept, kept_out = train - facts.get("unlabelled", 0) - held_out, held_out
    if few:
        classes = len(facts["classes"]) if facts else spec.classes or 0
        kept, kept_out = divided(few.count, kept, held_out, classes, spec.title)
    labelled = kept if recipe.selection == "validation" else kept + kept_out
    labelled = labelled if cell.has_labels else 0
    return images_shown(labelled, shown - labelled, recipe.labelled_share)


def has_batch_norm(cell: Cell) -> bool:
    """Return whether a student has batch normalisation."""
    return cell.student_spec.network(2, None, "teacher", learnable_scale=False).has_batch_norm
