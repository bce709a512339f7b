"""Fields that several tables have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clipkd.tables.accuracy import SHARE
from clipkd.tables.grouping import summary_of
from clipkd.tables.results import Results, dataset_title
from clipkd.tables.table import NOTHING, Column, Entry, Field, spread, words


def labels_field(results: Results) -> list[Field]:
    """Return the field of the number of labels that runs see, where there are runs that do not see all."""
    return [words("labels", "Labels")] if results.has_few_labels else []


def place_fields(results: Results, titles: Mapping[str, str]) -> list[Field]:
    """Return the fields that say which runs a row is of: dataset, student, labels and teacher.

    `titles`: teacher -> its title; one without has a dash.
    """
    return [
        words("dataset", "Dataset", lambda row: dataset_title(row.dataset, results.config)),
        words("student", "Student"),
        *labels_field(results),
        words("teacher", "Teacher", lambda row: titles.get(row.teacher, NOTHING)),
    ]


def percent_fields(name: str, column: str, heading: Column, entry: Callable[[Any], Entry] | None = None) -> list[Field]:
    """Return the fields of an accuracy over seeds, in percent.

    Args:
        name: what their names in the CSV begin with.
        column: of a row of `over_seeds`.
        heading: of the column that people read.
        entry: what they read there; None: mean and deviation.
    """

    def shown(row: Any) -> Entry:
        return Entry(spread(*summary_of(row, column), scale=SHARE), is_incomplete=row.n < row.n_asked)

    return [
        Field(f"{name}mean_percent", heading, entry or shown, lambda row: summary_of(row, column).mean * SHARE),
        Field(f"{name}deviation_percent", value=lambda row: summary_of(row, column).deviation * SHARE),
    ]
