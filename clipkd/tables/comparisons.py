"""Comparisons: each method against training without a teacher, embed-KD against its controls; in numbers and words."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from clipkd.plugins import methods, recipes
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.tables.results import (
    BASELINE,
    Results,
    accuracy_cells,
    headline,
    teacher_names,
    train_types,
    values,
    where,
)
from clipkd.tables.summary import CONFIDENCE, Difference, paired_difference

POINTS = 100.0
"""Differences are shown in percentage points."""


@dataclass(frozen=True)
class Comparison:
    """A method's test top-1 against another train type's, paired by seed."""

    recipe: str
    dataset: str
    student: str
    teacher: str
    method: str
    against: str
    kind: str
    """The epoch compared: `selected` (by validation) or `last`."""
    difference: Difference | None
    """In percentage points; None where no seed has both runs."""
    is_incomplete: bool

    @property
    def sentence(self) -> str:
        """The comparison in plain words."""
        found = self.difference
        if found is None:
            return f"{self.method} can't be compared with {self.against}: no seed has both runs."
        size = f"{abs(found.mean):.2f}"
        direction = "above" if found.mean > 0 else "below"
        stand = f"level with {self.against}" if size == "0.00" else f"{size} points {direction} {self.against}"
        return f"{self.method} is {stand} ({self.evidence}): {self.verdict}."

    @property
    def evidence(self) -> str:
        """The interval and the number of seeds."""
        found = self.difference
        assert found is not None
        if found.low is None or found.high is None:
            return (
                "n = 1 seed, so no interval"
                if found.n == 1
                else f"n = {found.n} seeds with equal differences, so no interval"
            )
        sign = "of the difference " if found.mean < 0 else ""
        return f"{CONFIDENCE * 100:.0f} % CI {sign}{signed(found.low)} to {signed(found.high)}, n = {found.n} seeds"

    @property
    def verdict(self) -> str:
        verdict = self.difference.verdict if self.difference else "not compared"
        return "nothing can be concluded" if verdict == "no interval" else verdict


def signed(value: float) -> str:
    """Return a number with two decimals and a true minus sign; never a negative zero."""
    text = f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def comparisons(results: Results) -> tuple[list[Comparison], list[str]]:
    """Return every comparison in the config's order, and a line for each that the grid gives no partner."""
    found: list[Comparison] = []
    alone: dict[str, None] = {}
    cells = accuracy_cells(results.cells)
    axes = (values(cells, axis) for axis in ("recipe", "dataset", "student"))
    for recipe, dataset, student in itertools.product(*axes):
        here = where(cells, recipe=recipe, dataset=dataset, student=student)
        kind = headline(recipes.get(recipe).selection)
        for teacher in teacher_names(here):
            for method, against in pairs(train_types(where(here, teacher=teacher))):
                mine = where(here, train_type=method, teacher=teacher)
                theirs = where(here, train_type=against, teacher=NO_TEACHER if against == BASELINE else teacher)
                if not theirs:
                    line = f"No {against} runs of {student} on {dataset}, recipe {recipe}: no comparison for {method}."
                    alone[line] = None
                    continue
                difference = paired_difference(points(results, mine, kind), points(results, theirs, kind))
                incomplete = results.incomplete([*mine, *theirs])
                found.append(
                    Comparison(recipe, dataset, student, teacher, method, against, kind, difference, incomplete)
                )
    return found, list(alone)


def points(results: Results, cells: list[Cell], kind: str) -> dict[int, float]:
    """Return seed -> test top-1 in percent."""
    return {seed: share * POINTS for seed, share in results.scores(cells, kind).items()}


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """Return (method, what it is compared with): the baseline for each, then each method's controls."""
    controls = [(methods.get(name).control_of, name) for name in names]
    return [(name, BASELINE) for name in names] + [
        (method, name) for method, name in controls if method is not None and method in names
    ]
