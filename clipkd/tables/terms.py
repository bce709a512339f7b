"""Words and marks of the tables."""

from __future__ import annotations

from clipkd.plugins import recipes
from clipkd.spec.selection import LEAST_TO_CHOOSE

EPOCHS = {
    "last": "last epoch",
    "selected": "validation-selected epoch",
    "best-test": "best epoch chosen on the test set, as released: optimistic",
}
"""Choice of a run's epoch -> what it is called."""
METRICS = {"top1": "top-1", "top5": "top-5"}

BASELINE = "supervised"
"""The train type without a teacher, which every other is compared with."""
MARK = "†"
"""Beside a number that rests on fewer runs or files than the config asks for."""

WRONG = ("INCOMPLETE", "NOT COMPARABLE")
"""What a note begins with that says what is wrong with the numbers."""


def mark(text: str, is_incomplete: bool) -> str:
    """Return a text, with the mark where it is of an incomplete number."""
    return f"{text} {MARK}" if is_incomplete else text


def of_labels(labels: object) -> str:
    """Return `, 100 labels`, to follow the name of runs that see so many; nothing where all are seen."""
    return "" if labels == "all" else f", {'no' if labels == 'none' else labels} labels"


def choices(recipe: str) -> tuple[str, str]:
    """Return the epochs that are shown of a recipe's runs: the last, and the one that the recipe selects.

    Args:
        recipe: the recipe, as cells hold it.
    """
    return "last", "selected" if selects(recipe) else "best-test"


def selects(recipe: str) -> bool:
    """Return whether a recipe's runs choose their epoch on a validation split."""
    return recipes.get(recipe).selection == "validation"


def headline(recipe: str, validation_images: float | None = None) -> str:
    """Return the epoch that comparisons use: chosen by validation where that has enough images, else the last.

    Args:
        recipe: the recipe of the runs, as cells hold it.
        validation_images: how many images are held out; None or NaN: unknown, of older runs.
    """
    is_small = validation_images is not None and validation_images < LEAST_TO_CHOOSE
    return "selected" if selects(recipe) and not is_small else "last"
