"""Groups of the frame's rows: numbers over seeds, and the order of rows. No pandas before a frame is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipkd.spec.cells import Cell
from clipkd.tables.summary import Summary, summarise
from clipkd.tables.terms import of_labels

if TYPE_CHECKING:
    import pandas as pd

AXES = ["recipe", "dataset", "student", "labels", "teacher", "train_type"]
"""What a row of an accuracy table is for; its numbers are over seeds."""
ROLES = ["baseline", "method", "control"]
"""Of train types, in the order in which tables show them."""


def axes_of(cell: Cell) -> tuple[str, ...]:
    """Return what a cell's row of an accuracy table is for."""
    return cell.recipe_spec.name, *(str(getattr(cell, axis)) for axis in AXES if axis != "recipe")


def place_of(cell: Cell) -> str:
    """Return in words what a cell's run is of, but for labels, recipe and seed."""
    live = f", {cell.teacher_source} teacher" if cell.is_cost_run else ""
    return f"{cell.dataset}, {cell.student}, teacher {cell.teacher_key}, {cell.train_type}{live}"


def labels_of(cell: Cell) -> str:
    """Return how many labels a cell's run sees, where these are few or none, to follow its name."""
    return of_labels(cell.labels if cell.has_labels else "no")


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """Return the rows of a frame, an attribute for each column."""
    return list(frame.itertuples(index=False))


def with_labels(row: Any) -> str:
    """Return a row's train type, and how many labels are seen where these are few."""
    return f"{row.train_type}{of_labels(row.labels)}"


def groups(frame: pd.DataFrame, *by: str) -> list[tuple[Any, pd.DataFrame]]:
    """Return the groups of a frame, in the order in which they first appear."""
    return list(frame.groupby(list(by) if len(by) > 1 else by[0], sort=False))


def over_seeds(runs: pd.DataFrame, by: Sequence[str], *columns: str) -> pd.DataFrame:
    """Return a row per group: mean, sample deviation (divisor n - 1) and count of each column, and of the runs.

    `n` counts finished runs, `n_asked` those that the config asks for, `n_failed` those that failed.
    """
    runs = runs.assign(is_finished=runs.state == "finished", is_failed=runs.state == "failed")
    states = {
        "epochs": ("epochs", "first"),
        "n": ("is_finished", "sum"),
        "n_asked": ("state", "size"),
        "n_failed": ("is_failed", "sum"),
    }
    numbers = {
        f"{column}_{part}": (column, summary)
        for column in columns
        for part, summary in {"mean": mean, "deviation": deviation, "n": "count"}.items()
    }
    return runs.groupby(list(by), sort=False).agg(**states, **numbers).reset_index()


def summary_of(row: Any, column: str) -> Summary:
    """Return mean, deviation and count of a column, from a row of `over_seeds`."""
    mean, deviation, n = (getattr(row, f"{column}_{part}") for part in Summary._fields)
    return Summary(mean, deviation, int(n))


def mean(values: pd.Series) -> float:
    return summarise(values.dropna()).mean


def deviation(values: pd.Series) -> float:
    return summarise(values.dropna()).deviation


def joined(values: pd.Series) -> str:
    """Return the different words of a group, sorted."""
    return "; ".join(sorted(set(values.dropna())))


def nested_order(rows: pd.DataFrame, *axes: str, **ranks: Sequence[Any]) -> pd.DataFrame:
    """Return the rows sorted by several axes, each value where it first appears within those before it.

    Args:
        rows: the rows.
        axes: the columns, outermost first.
        ranks: for some of them, the order of their values.
    """
    places = rows.assign(place=range(len(rows)))
    for depth, axis in enumerate(axes, start=1):
        if axis in ranks:
            key = rows[axis].map(list(ranks[axis]).index)
        else:
            key = places.groupby(list(axes[:depth])).place.transform("min")
        places[f"{axis} key"] = key
    order = places.sort_values([f"{axis} key" for axis in axes], kind="stable").index
    return rows.loc[order].reset_index(drop=True)
