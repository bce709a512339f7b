"""Words and marks of the tables."""

from __future__ import annotations

from clipkd.plugins import recipes

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


def choices(recipe: str) -> tuple[str, str]:
    """Return the epochs that are shown of a recipe's runs: the last, and the one that the recipe selects."""
    return "last", "selected" if recipes.get(recipe).selection == "validation" else "best-test"


def headline(recipe: str) -> str:
    """Return the epoch that comparisons use: chosen by validation where there is one, else the last."""
    return "selected" if recipes.get(recipe).selection == "validation" else "last"
