"""A table: its entries for people, its records for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from clipkd.tables.drawings import Bar, Interval
from clipkd.tables.results import MARK
from clipkd.tables.summary import Summary

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column of entries; neighbours of one group share a heading."""

    title: str
    group: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class Entry:
    """One cell of a table."""

    text: str = NOTHING
    is_best: bool = False
    is_incomplete: bool = False
    tone: str = ""
    """`better` or `worse`: coloured in the report."""
    drawing: Bar | Interval | None = None
    """Shown beside the text in HTML."""

    @property
    def marked(self) -> str:
        return f"{self.text} {MARK}" if self.is_incomplete else self.text


@dataclass
class Table:
    """One table. `records` go to CSV at full precision, everything else to the formats that people read."""

    stem: str
    title: str
    columns: list[Column]
    rows: list[list[Entry]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


def spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return each run of neighbours of one group, and its width."""
    return [(group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group)]


def attribute(thing: Any, name: str) -> Any:
    """Return one attribute of a thing, None where there is no thing."""
    return None if thing is None else getattr(thing, name)


def spread(summary: Summary | None, digits: int = 2, scale: float = 1.0) -> str:
    """Return `mean ± sample standard deviation (n)`, without the deviation where n = 1."""
    if summary is None:
        return NOTHING
    mean = f"{summary.mean * scale:.{digits}f}"
    deviation = "" if summary.deviation is None else f" ± {summary.deviation * scale:.{digits}f}"
    return f"{mean}{deviation} ({summary.n})"


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number at `digits` significant digits, thousands grouped, never in powers of ten."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = (
        max(0, digits - len(f"{int(abs(rounded))}")) if abs(rounded) >= 1 else digits - 1 - int(f"{rounded:e}"[-3:])
    )
    return f"{rounded:,.{decimals}f}"
