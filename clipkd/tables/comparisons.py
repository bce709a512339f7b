"""Comparisons: each method against training without a teacher, its controls and other methods; in numbers and words.

Each comparison answers a question (`QUESTIONS`); its verdict is corrected for all comparisons in that question's list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from clipkd.plugins import methods
from clipkd.spec.cells import NO_TEACHER
from clipkd.tables import summary
from clipkd.tables.arms import Arm, arms, difference, unlike
from clipkd.tables.results import Results, teacher_titles
from clipkd.tables.summary import Difference
from clipkd.tables.terms import BASELINE, of_labels

QUESTIONS = {
    "help": "does a teacher help",
    "content": "does its content matter",
    "methods": "better than other methods",
    "controls": "controls",
}
"""Question of comparisons -> how tables name it."""
LISTS = (("help", "methods"), ("content",), ("controls",))
"""Questions that are corrected together. The two about methods share a list, so that at most 5 % of grids with nothing
to find say something in any sentence: to be better than a control and than no teacher hardly ever comes by chance.
"""
BOTH = " and "
UNLIKE = "‡"
"""Beside a comparison of runs that differ in more than their train type."""


@dataclass(frozen=True)
class Comparison:
    """A method's test top-1 against another train type's, paired by seed."""

    recipe: str
    dataset: str
    student: str
    teacher: str
    method: str
    against: str
    """A train type; for the question `content` several, joined by `BOTH`: the method must be better than each."""
    epoch: str
    """The one compared: `selected` (by validation) or `last`."""
    difference: Difference | None
    """In percentage points; None where no seed has both runs. Against several: the one to the best of them."""
    is_incomplete: bool
    question: str = "help"
    corrected: float | None = None
    """The p-value after Holm's correction for the question's list; None: without a p-value."""
    listed: int = 1
    """How many p-values that list has."""
    unlike: str = ""
    """What the two sides differ in beside the train type."""
    labels: str = "all"
    """How many labels both see."""
    is_partly_labelled: bool = False
    """Whether some of the first one's images have no label."""

    @property
    def sentence(self) -> str:
        """The comparison in plain words."""
        found = self.difference
        if found is None:
            return f"{self.method} can't be compared with {self.against}: no seed has both runs."
        size = f"{abs(found.mean):.2f}"
        direction = "above" if found.mean > 0 else "below"
        if self.question == "content":
            limit = "at least" if found.mean > 0 else "at most"
            level = f"{direction} each of {self.against}, by {limit} {size} points"
            if size == "0.00":
                level = f"level with the better of {self.against}"
            elif found.p == 1:  # not one-way: it is no better than one of them, and no worse than another
                level = f"{size} points {direction} the better of {self.against}"
        else:
            level = f"level with {self.against}" if size == "0.00" else f"{size} points {direction} {self.against}"
        mixed = f" {UNLIKE} {self.unlike}." if self.unlike else ""
        return f"{self.method} is {level} ({self.evidence}): {self.outcome}.{mixed}"

    @property
    def evidence(self) -> str:
        """The interval, the number of seeds and the corrected p-value."""
        found = self.difference
        assert found is not None
        if found.p is None:
            why = "n = 1 seed" if found.n == 1 else f"n = {found.n} seeds with equal differences"
            return f"{why}, so no interval"
        end = f"n = {found.n} seeds; Holm's p {compared(self.corrected)}"
        if (interval := interval_of(found)) is None:
            return end
        sign = "of the difference " if found.mean < 0 else ""
        return f"95 % CI {sign}{interval}, {end}"

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`, corrected; else why there is none of these."""
        return summary.verdict(self.difference, self.corrected)

    @property
    def outcome(self) -> str:
        """The verdict, and that it is the correction that makes it so, where it is."""
        alone = self.difference.p if self.difference else None
        if self.verdict == "no difference shown" and alone is not None and alone <= summary.LEVEL:
            return f"{self.verdict} among {self.listed} comparisons"
        return self.verdict


def signed(value: float) -> str:
    """Return a number with two decimals and a true minus sign; never a negative zero."""
    text = f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def interval_of(found: Difference | None) -> str | None:
    """Return a difference's interval as text; None where it has none."""
    if found is None or found.low is None or found.high is None:
        return None
    return f"{signed(found.low)} to {signed(found.high)}"


def p_value(value: float | None) -> str:
    """Return a p-value as people read it."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def compared(value: float | None) -> str:
    """Return `= 0.03` or `< 0.001`."""
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def comparisons(results: Results) -> tuple[list[Comparison], list[str]]:
    """Return every comparison in the config's order, and lines on what is missing."""
    return compare(arms(results))


def compare(grid: list[Arm]) -> tuple[list[Comparison], list[str]]:
    """Return every comparison of a grid's arms, those of a place next to each other; and lines on what is missing."""
    found: list[Comparison] = []
    alone: dict[str, None] = {}
    for (recipe, dataset, student, labels), members in groupby(grid, key=lambda arm: arm.place):
        here = list(members)
        without = {arm.train_type: arm for arm in here if arm.teacher == NO_TEACHER}
        for teacher in dict.fromkeys(arm.teacher for arm in here if arm.teacher != NO_TEACHER):
            mine = {arm.train_type: arm for arm in here if arm.teacher == teacher}
            for question, method, against in pairs(list(mine)):
                second = mine.get(against) or without.get(against)
                if second is None:
                    what = f"{student} on {dataset}{of_labels(labels)}, recipe {recipe}"
                    line = f"No {against} runs of {what}: no comparison for {method}."
                    alone[line] = None
                else:
                    found.append(comparison(question, mine[method], second))
            found += contents(mine, without)
    return corrected(found), [*alone, *untested(found)]


def comparison(question: str, first: Arm, second: Arm) -> Comparison:
    """Return the comparison of two arms."""
    return Comparison(
        *(first.recipe, first.dataset, first.student, first.teacher),
        *(first.train_type, second.train_type, first.epoch),
        difference=difference(first, second),
        is_incomplete=first.is_incomplete or second.is_incomplete,
        question=question,
        unlike=unlike(first, second),
        labels=first.labels,
        is_partly_labelled=first.is_partly_labelled,
    )


def pairs(train_types: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (question, method, what it is compared with) of a teacher's train types: methods, then controls."""
    specs = sorted(map(methods.get, train_types), key=lambda spec: spec.control_of is not None)
    for spec in specs:
        yield "controls" if spec.control_of else "help", spec.name, BASELINE
    for spec in specs:
        if spec.control_of in train_types:
            yield "controls", spec.control_of, spec.name
    for spec in specs:
        for other in spec.compared_with:
            if other in train_types:
                yield "methods", spec.name, other


def contents(mine: dict[str, Arm], without: dict[str, Arm]) -> Iterator[Comparison]:
    """Yield, for each method of a teacher, whether it is better than training without one and than its controls.

    Better than a control alone can mean that the control does harm; better than training without a teacher alone,
    that the extra loss helps, whatever the teacher's vectors say. So both must hold: the p-value is the larger one
    (R. L. Berger, Multiparameter hypothesis testing and acceptance sampling, https://doi.org/10.2307/1267823).
    """
    for first in mine.values():
        controls = methods.deciding(first.train_type, first.is_partly_labelled)
        if not controls or BASELINE not in without or not mine.keys() >= set(controls):
            continue
        others = [without[BASELINE], *(mine[name] for name in controls)]
        each = [comparison("content", first, other) for other in others]
        yield replace(
            each[0],
            against=BOTH.join(one.against for one in each),
            difference=together([one.difference for one in each]),
            is_incomplete=any(one.is_incomplete for one in each),
            unlike="; ".join(dict.fromkeys(one.unlike for one in each if one.unlike)),
        )


def together(each: list[Difference | None]) -> Difference | None:
    """Return several differences as one that is shown only where all are, and in one direction."""
    found = [one for one in each if one is not None]
    if len(found) < len(each):
        return None
    mean, n = min(one.mean for one in found), min(one.n for one in found)
    p = [one.p for one in found if one.p is not None]
    over = min(one.over for one in found)
    if len(p) < len(found):
        return Difference(mean, None, None, n, over=over)
    is_one_way = all(one.mean > 0 for one in found) or all(one.mean < 0 for one in found)
    return Difference(mean, None, None, n, max(p) if is_one_way else 1.0, over)


def corrected(found: list[Comparison]) -> list[Comparison]:
    """Return the comparisons with p-values that are corrected for the length of their list."""
    made = list(found)
    for questions in LISTS:
        p = summary.corrected({i: one.difference for i, one in enumerate(found) if one.question in questions})
        for index, value in p.items():
            made[index] = replace(found[index], corrected=value, listed=len(p))
    return made


def untested(found: list[Comparison]) -> list[str]:
    """Return a line that names each method and teacher whose controls the grid lacks; none where it has them."""
    helping = [one for one in found if one.question == "help" and methods.deciding(one.method, one.is_partly_labelled)]
    tested = {row_of(one) for one in found if one.question == "content"}
    lacking = [one for one in helping if row_of(one) not in tested]
    if not lacking:
        return []
    titles = teacher_titles(dict.fromkeys(one.teacher for one in found))
    tested_with = {(one.method, one.teacher) for one in found if one.question == "content"}

    def name(one: Comparison) -> str:
        if one.method not in {method for method, _ in tested_with}:
            return one.method
        place = f" ({one.dataset}, {one.student}, recipe {one.recipe})" * ((one.method, one.teacher) in tested_with)
        return f"{one.method} with {titles[one.teacher]}{place}"

    named = dict.fromkeys(map(name, lacking))
    wanted = dict.fromkeys(name for one in lacking for name in methods.deciding(one.method, one.is_partly_labelled))
    return [
        f"Not tested, as the grid lacks runs of {', '.join(wanted)}: whether the teacher's content matters for "
        f"{', '.join(named)}."
    ]


def beside(found: list[Comparison]) -> list[Comparison]:
    """Return the comparisons of methods with controls that do not decide whether the teacher's content matters."""
    controls = [one for one in found if one.question == "controls" and one.against != BASELINE]
    return [one for one in controls if one.against not in methods.deciding(one.method, one.is_partly_labelled)]


def row_of(one: Comparison) -> tuple[str, ...]:
    """Return the axes of the row of an accuracy table whose runs are compared with others."""
    return one.recipe, one.dataset, one.student, one.labels, one.teacher, one.method
