"""Costs over seeds: what training with a teacher costs, per student, teacher, train type and source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from clipkd.runs.record import Cost
from clipkd.spec.cells import NO_TEACHER, Cell, TeacherSource
from clipkd.tables.results import Results, train_types, values, where
from clipkd.tables.summary import Summary, summarise
from clipkd.tables.teacher_stats import Extraction

GIGABYTE = 1e9
"""The paper's figure counts in powers of ten."""


@dataclass(frozen=True)
class CostRow:
    """One kind of run, its cost over seeds."""

    cells: tuple[Cell, ...]
    source: str
    """`none`, `cached` or `live`: where the teacher's signal comes from."""
    costs: tuple[Cost, ...]
    """Of the runs that are there."""
    extraction: Extraction | None
    """What was extracted once, and shared by all runs with this teacher signal."""

    @property
    def first(self) -> Cell:
        return self.cells[0]

    @property
    def is_incomplete(self) -> bool:
        return len(self.costs) < len(self.cells)

    def over_seeds(self, number: Callable[[Cost], float]) -> Summary | None:
        """Return mean and deviation over seeds of one number of the runs' costs."""
        return summarise(map(number, self.costs))

    def mean(self, number: Callable[[Cost], float], unit: float = 1.0) -> float | None:
        """Return the mean over seeds of a number of the runs' costs, in units of `unit`; None without runs."""
        summary = self.over_seeds(number)
        return summary.mean / unit if summary else None

    @property
    def seconds(self) -> Summary | None:
        """Seconds per epoch: median over a run's epochs, mean over seeds."""
        return self.over_seeds(lambda cost: cost.median_seconds)

    @property
    def devices(self) -> str:
        """The hardware that the runs used, in the order of its names."""
        return "; ".join(sorted({cost.device.detail for cost in self.costs}))


def cost_rows(results: Results) -> list[CostRow]:
    """Return the kinds of runs: by dataset, student, teacher and train type, the cached before the live."""
    rows = []
    for dataset in values(results.cells, "dataset"):
        here = where(results.cells, dataset=dataset)
        for student in values(here, "student"):
            teachers = sorted(values(where(here, student=student), "teacher"), key=lambda name: name != NO_TEACHER)
            for teacher in teachers:
                mine = where(here, student=student, teacher=teacher)
                for name in train_types(mine):
                    members = where(mine, train_type=name)
                    for recipe in values(results.cells, "recipe"):
                        for source in get_args(TeacherSource):
                            same = where(members, recipe=recipe, teacher_source=source)
                            if same:
                                rows.append(cost_row(results, same))
    return rows


def cost_row(results: Results, cells: list[Cell]) -> CostRow:
    """Return the cost of the cells of one kind."""
    first = cells[0]
    source = "none" if first.teacher == NO_TEACHER else first.teacher_source
    costs = tuple(results.runs[cell].cost for cell in cells if cell in results.runs)
    return CostRow(tuple(cells), source, costs, results.teachers.used(first))


def cached_of(row: CostRow, rows: list[CostRow]) -> CostRow | None:
    """Return the row of the same runs with a cached teacher, for a row with a live one."""
    axes = ("dataset", "student", "teacher", "train_type", "recipe")
    wanted = {axis: getattr(row.first, axis) for axis in axes}
    if row.source not in {"live", "lazy"}:
        return None
    return next((other for other in rows if other.source == "cached" and where([other.first], **wanted)), None)


def slower(row: CostRow, rows: list[CostRow]) -> float | None:
    """Return how many times longer an epoch takes with the live teacher than with the cached one."""
    cached = cached_of(row, rows)
    if cached is None or cached.seconds is None or row.seconds is None or not cached.seconds.mean:
        return None
    return row.seconds.mean / cached.seconds.mean
