"""A table: its entries for people, its records for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from clipkd.tables.drawings import Bar, Interval
from clipkd.tables.terms import mark

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column of entries; neighbours of one group share a heading."""

    title: str
    group: str = ""
    is_number: bool = True
    is_sentence: bool = False


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
        return mark(self.text, self.is_incomplete)


@dataclass
class Table:
    """One table. `records` go to CSV at full precision, everything else to the formats that people read."""

    stem: str
    title: str
    columns: list[Column]
    rows: list[list[Entry]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Field:
    """A number or word of each row: in the CSV, in what people read, or both."""

    name: str = ""
    """Of the CSV's column; "": not in the CSV."""
    column: Column | None = None
    entry: Callable[[Any], Entry | str] | None = None
    """Row -> what people read; None: the value."""
    value: Callable[[Any], Any] | None = None
    """Row -> what the CSV holds; None: the row's attribute of that name."""

    def of(self, row: Any) -> Any:
        """Return the value of a row."""
        return self.value(row) if self.value else getattr(row, self.name)


def words(
    name: str,
    title: str,
    entry: Callable[[Any], Entry | str] | None = None,
    value: Callable[[Any], Any] | None = None,
) -> Field:
    """Return a field of text."""
    return Field(name, Column(title, is_number=False), entry, value)


def filled(fields: Sequence[Field], rows: Iterable[Any]) -> Table:
    """Return a table of some rows, without its title."""
    table = Table("", "", [field.column for field in fields if field.column])
    for row in rows:
        table.records.append({field.name: plain(field.of(row)) for field in fields if field.name})
        shown = [field.entry(row) if field.entry else str(field.of(row)) for field in fields if field.column]
        table.rows.append([entry if isinstance(entry, Entry) else Entry(entry) for entry in shown])
    return table


def marked(row: Any, text: str) -> Entry:
    """Return the entry of a row that may be incomplete."""
    return Entry(text, is_incomplete=row.is_incomplete)


def plain(value: Any) -> Any:
    """Return a value as the CSV writes it: None where there is none, a truth value as 0 or 1."""
    if is_missing(value):
        return None
    return int(value) if isinstance(value, bool) or type(value).__name__ == "bool" else value


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or value != value


def spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return each run of neighbours of one group, and its width."""
    return [(group, len(list(members))) for group, members in groupby(columns, key=lambda column: column.group)]


def spread(mean: float, deviation: float, n: int, *, digits: int = 2, scale: float = 1.0) -> str:
    """Return `mean ± sample standard deviation (n)`, without the deviation where n = 1."""
    if n == 0:
        return NOTHING
    shown = "" if math.isnan(deviation) else f" ± {deviation * scale:.{digits}f}"
    return f"{mean * scale:.{digits}f}{shown} ({n})".replace("-", "−")


def count(value: Any) -> str:
    """Return a count in full; one decimal where it is the mean of counts that differ."""
    if is_missing(value):
        return NOTHING
    return f"{value:,.{0 if value == int(value) else 1}f}"


def significant(value: Any, digits: int = 3) -> str:
    """Return a number at `digits` significant digits, thousands grouped, never in powers of ten."""
    if is_missing(value):
        return NOTHING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = (
        max(0, digits - len(f"{int(abs(rounded))}")) if abs(rounded) >= 1 else digits - 1 - int(f"{rounded:e}"[-3:])
    )
    return f"{rounded:,.{decimals}f}".replace("-", "−")
