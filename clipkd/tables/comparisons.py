"""Comparisons: each method against training without a teacher, embed-KD against its controls; in numbers and words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipkd.spec.cells import NO_TEACHER
from clipkd.tables.grouping import AXES, ROLES, groups, nested_order
from clipkd.tables.results import Results
from clipkd.tables.summary import CONFIDENCE, Difference, paired_difference
from clipkd.tables.terms import BASELINE

if TYPE_CHECKING:
    import pandas as pd

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
    epoch: str
    """The one compared: `selected` (by validation) or `last`."""
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
        level = f"level with {self.against}" if size == "0.00" else f"{size} points {direction} {self.against}"
        return f"{self.method} is {level} ({self.evidence}): {self.verdict}."

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
    runs = results.comparable
    runs = nested_order(runs[runs.is_headline], "recipe", "dataset", "student").assign(points=lambda f: f.top1 * POINTS)
    found: list[Comparison] = []
    alone: dict[str, None] = {}
    for (recipe, dataset, student), here in groups(runs, *AXES[:3]):
        for teacher in [name for name in here.teacher.unique() if name != NO_TEACHER]:
            mine = here[here.teacher == teacher]
            for method, against in pairs(mine):
                first = mine[mine.train_type == method]
                second = here[(here.train_type == against) & here.teacher.isin([teacher, NO_TEACHER])]
                if second.empty:
                    line = f"No {against} runs of {student} on {dataset}, recipe {recipe}: no comparison for {method}."
                    alone[line] = None
                    continue
                difference = paired_difference(*(by_seed(one) for one in (first, second)))
                is_incomplete = bool((first.state != "finished").any() or (second.state != "finished").any())
                axes = (recipe, dataset, student, teacher, method, against, first.epoch.iloc[0])
                found.append(Comparison(*axes, difference, is_incomplete))
    return found, list(alone)


def by_seed(runs: pd.DataFrame) -> dict[int, float]:
    """Return seed -> test top-1 in percent of the finished runs."""
    finished = runs.dropna(subset="points")
    return dict(zip(finished.seed, finished.points, strict=True))


def pairs(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (method, what it is compared with): the baseline for each, then each method's controls."""
    kinds = runs.drop_duplicates("train_type")
    kinds = nested_order(kinds, "role", "train_type", role=ROLES)
    controls = kinds[kinds.control_of.isin(kinds.train_type)]
    baseline = [(name, BASELINE) for name in kinds.train_type]
    return baseline + list(zip(controls.control_of, controls.train_type, strict=True))
