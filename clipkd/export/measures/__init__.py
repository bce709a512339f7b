"""Measures: one file is one way to look at a trained student beyond its accuracy. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipkd.core.registry import find, specs

if TYPE_CHECKING:
    from clipkd.export.subject import Subject

ALL = "all"


class NotMeasured(Exception):
    """A measure that this student, or this machine, has nothing for; says why."""


@dataclass(frozen=True)
class Measured:
    """What a measure found."""

    numbers: dict[str, float]
    """The few that are quoted, by name."""
    details: dict[str, Any] = field(default_factory=dict)
    """What they were made from, and with which settings: plain data."""


@dataclass(frozen=True)
class Measure:
    """A measure."""

    name: str
    title: str
    protocol: int
    """Bumped when it gives other numbers of the same student and images."""
    needs_classes: bool = True
    """Whether the student's class scores are measured: the images must then be of its classes."""

    def measure(self, subject: Subject) -> Measured:
        """Measure a student on a dataset.

        Raises:
            NotMeasured: there is nothing to measure here.
        """
        raise NotImplementedError


def names() -> list[str]:
    """Return the names of all measures."""
    return list(specs(__name__))


def get(name: str) -> Measure:
    """Return the measure `name`, case ignored; InputError names the nearest known one."""
    found: Measure = find(__name__, "measure", name)
    return found


def chosen(text: str) -> list[Measure]:
    """Return the measures of a list with commas, each once, in the order of their names; `all`: every one.

    Raises:
        InputError: one is unknown.
    """
    asked = [word.strip() for word in text.split(",")]
    wanted = {name for word in asked for name in (names() if word.lower() == ALL else [get(word).name])}
    return [get(name) for name in names() if name in wanted]
