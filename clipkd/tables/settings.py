"""Settings of sweeps: which recipes of a config belong to one, and which of them validation chooses.

A sweep whose runs all choose their epoch by validation is one recipe in tables and figures, under its own name: each
dataset, student, teacher and train type with the setting that was chosen for it. No pandas before a frame is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from clipkd.plugins import recipes
from clipkd.spec.cells import Cell
from clipkd.spec.own_recipes import sweeps
from clipkd.spec.settings import Config
from clipkd.tables.grouping import AXES, groups, over_seeds, rows_of
from clipkd.tables.summary import EQUAL
from clipkd.tables.terms import selects

if TYPE_CHECKING:
    import pandas as pd

PLACE = [*(axis for axis in AXES if axis != "recipe"), "is_cost_run"]
"""Where a setting is chosen, each on its own. Not by `teacher_source`: it depends on a setting's augmentation."""


def sweeps_of(config: Config, cells: Iterable[Cell]) -> dict[str, list[str]]:
    """Return key -> recipes, as cells hold them, of each sweep that has runs."""
    used = {cell.recipe for cell in cells}
    found = {key: [recipe for recipe in made if recipe in used] for key, made in sweeps(config.recipes).items()}
    return {key: made for key, made in found.items() if made}


def chosen_by_validation(made: Iterable[str]) -> bool:
    """Return whether validation can choose among the recipes of a sweep."""
    return all(selects(recipe) for recipe in made)


def labels(config: Config, cells: Iterable[Cell]) -> dict[str, str]:
    """Return recipe, as cells hold it -> what tables call it: its name, or that of a sweep that chooses."""
    cells = list(cells)
    found = {cell.recipe: cell.recipe_spec.name for cell in cells}
    for key, made in sweeps_of(config, cells).items():
        found |= dict.fromkeys(made, key) if chosen_by_validation(made) else {}
    return found


def with_choices(runs: pd.DataFrame, config: Config, cells: Iterable[Cell]) -> pd.DataFrame:
    """Return the frame with `sweep`, a run's sweep that chooses, and `is_chosen`: false for settings that are not.

    Where no setting is complete yet, the first one is shown, with its marks.
    """
    sweep_of = {recipes.name_in(recipe): label for recipe, label in labels(config, cells).items()}
    sweep_of = {name: label for name, label in sweep_of.items() if name != label}
    runs = runs.assign(sweep=runs.recipe.map(sweep_of).astype(object), is_chosen=True)
    for _, here in groups(runs.dropna(subset="sweep"), "sweep", *PLACE):
        name = best(here) or here.recipe.iloc[0]
        runs.loc[here.index, "is_chosen"] = here.recipe == name
    return runs


def best(runs: pd.DataFrame) -> str | None:
    """Return the recipe with the highest mean validation top-1, of those with all of their runs; of equals the first.

    Args:
        runs: those of a sweep at one place; the epoch is that of comparisons.
    """
    rows = over_seeds(runs[runs.is_headline], ["recipe"], "validation_top1")
    rows = rows[(rows.n == rows.n_asked) & rows.validation_top1_mean.notna()]
    # Equal counts of right images must be equal means, however their sum was rounded. `max` takes the first.
    found = max(rows_of(rows), key=lambda row: round(row.validation_top1_mean / EQUAL), default=None)
    return str(found.recipe) if found else None


def shown(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of chosen settings, `recipe` the name of their sweep and `setting` their own."""
    rows = runs[runs.is_chosen]
    return rows.assign(setting=rows.recipe, recipe=rows.sweep.fillna(rows.recipe))


def chosen_notes(rows: pd.DataFrame) -> list[str]:
    """Return the lines on sweeps in rows of `shown`."""
    return [
        f"{sweep}: a sweep; its numbers are those of the setting that validation chose (table sweep)."
        for sweep in rows.sweep.dropna().unique()
    ]
