"""Recipes side by side: of each train type that was trained by several, every recipe beside the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.spec.settings import Config
from clipkd.tables.arms import Arm, arms, difference, unlike
from clipkd.tables.comparisons import UNLIKE, interval_of, p_value
from clipkd.tables.fields import labels_field
from clipkd.tables.grouping import AXES
from clipkd.tables.results import Results, dataset_title, teacher_titles
from clipkd.tables.settings import chosen_notes, labels
from clipkd.tables.summary import Difference, Summary, corrected, summarise, verdict
from clipkd.tables.table import NOTHING, Column, Entry, Field, Table, filled, marked, spread, words
from clipkd.tables.teacher_matters import EPOCHS, part, plus_or_minus
from clipkd.tables.teacher_matters import difference as shown

PLACE = attrgetter(*(axis for axis in AXES if axis != "recipe"))
"""Cell or arm -> what recipes are compared at."""


@dataclass(frozen=True)
class Beside:
    """The runs of one recipe, and their difference to those of the first recipe at the same place."""

    arm: Arm
    first: Arm
    difference: Difference | None
    """In points, paired by seed; None for the first recipe itself, and where no seed has both."""
    corrected: float | None = None
    """The p-value after Holm's correction for the whole table; None: without one."""

    @property
    def unlike(self) -> str:
        """What the two sides differ in beside the recipe; "" where in nothing."""
        sides = (self.arm, self.first)
        at = ", ".join(f"{one.recipe} at {EPOCHS[one.epoch]}" for one in sides)
        also = [at] if self.arm.epoch != self.first.epoch else []
        return "; ".join([*also, *filter(None, [unlike(*sides)])])

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`, corrected; else why there is none of these."""
        return "" if self.arm is self.first else verdict(self.difference, self.corrected)

    @property
    def is_incomplete(self) -> bool:
        """Whether runs of either side are missing."""
        return self.arm.is_incomplete or self.first.is_incomplete


def has_several(config: Config, cells: Iterable[Cell]) -> bool:
    """Return whether any train type of a grid is trained by several recipes; those of a sweep are one."""
    cells = list(cells)
    names = labels(config, cells)
    recipes: dict[object, set[str]] = {}
    for cell in cells:
        recipes.setdefault(PLACE(cell), set()).add(names[cell.recipe])
    return any(len(found) > 1 for found in recipes.values())


def beside(grid: Iterable[Arm]) -> list[Beside]:
    """Return a row per recipe of each place that has several, in the order of the config; p-values corrected."""
    places: dict[object, list[Arm]] = {}
    for arm in grid:
        places.setdefault(PLACE(arm), []).append(arm)
    found = [
        Beside(arm, here[0], None if arm is here[0] else difference(arm, here[0]))
        for here in places.values()
        if len(here) > 1
        for arm in here
    ]
    for index, value in corrected({index: one.difference for index, one in enumerate(found)}).items():
        found[index] = replace(found[index], corrected=value)
    return found


def table(results: Results) -> Table:
    """Return the table: a row per place and recipe."""
    found = beside(arms(results))
    titles = teacher_titles(name for name in results.comparable.teacher.unique() if name != NO_TEACHER)
    made = filled(
        [
            words("dataset", "Dataset", lambda row: dataset_title(row.arm.dataset, results.config), of("dataset")),
            words("student", "Student", of("student"), of("student")),
            *[replace(one, entry=of("labels"), value=of("labels")) for one in labels_field(results)],
            words("teacher", "Teacher", lambda row: titles.get(row.arm.teacher, NOTHING), of("teacher")),
            words("train_type", "Train type", of("train_type"), of("train_type")),
            words(
                "recipe",
                "Recipe",
                lambda row: f"{row.arm.recipe} {UNLIKE}" if row.unlike else row.arm.recipe,
                of("recipe"),
            ),
            Field("against", value=lambda row: None if row.arm is row.first else row.first.recipe),
            Field("unlike"),
            Field("epoch", value=of("epoch")),
            Field("mean_percent", Column("Test top-1, %"), accuracy, lambda row: over(row).mean),
            Field("deviation_percent", value=lambda row: over(row).deviation),
            Field("n", value=lambda row: over(row).n),
            Field("difference_points", Column("to the first, points"), shown, lambda row: part(row, "mean")),
            Field("low_points", Column("95 % CI, uncorrected"), interval, lambda row: part(row, "low")),
            Field("high_points", value=lambda row: part(row, "high")),
            Field(
                "shown_from_points",
                Column("detectable from, points"),
                lambda row: plus_or_minus(part(row, "half")),
                lambda row: part(row, "half"),
            ),
            Field("p", value=lambda row: part(row, "p")),
            Field("p_holm", Column("p, Holm"), lambda row: p_value(row.corrected), lambda row: row.corrected),
            words("verdict", "Verdict", lambda row: row.verdict or NOTHING, lambda row: row.verdict or None),
        ],
        found,
    )
    used = dict.fromkeys(EPOCHS[one.arm.epoch] for one in found)
    made.notes = [
        *chosen_notes(results.comparable),
        f"Test top-1: mean ± sample standard deviation over seeds, at {' or '.join(used) or 'no epoch'} (CSV: epoch).",
        "to the first: the difference to the first recipe of the same train type, in the config's order, paired by "
        "seed. Intervals are those of the table teacher-matters; p is corrected by Holm's method for all differences "
        "of this table. detectable from: half of the interval's width; a smaller difference could not have been told "
        "from 0 with these seeds, before any correction.",
        "no difference shown does not prove equality.",
        *[f"{UNLIKE}: {text}." for text in dict.fromkeys(row.unlike for row in found if row.unlike)],
    ]
    return made


def of(name: str) -> Callable[[Beside], Any]:
    """Return what reads a row's name on one axis."""
    return lambda row: getattr(row.arm, name)


def over(row: Beside) -> Summary:
    return summarise(row.arm.points.values())


def accuracy(row: Beside) -> Entry:
    return marked(row.arm, spread(*over(row)))


def interval(row: Beside) -> str:
    return interval_of(row.difference) or NOTHING
