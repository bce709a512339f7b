"""The report's tables: those in results/tables, and longer ones to search, sort and filter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from clipkd.plugins import recipes
from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.tables import KINDS, METRICS
from clipkd.tables.accuracy import best_mean, entry, group
from clipkd.tables.comparisons import Comparison
from clipkd.tables.drawings import Bar, Interval
from clipkd.tables.results import (
    Results,
    accuracy_cells,
    dataset_title,
    headline,
    teacher_names,
    teacher_title,
    teacher_titles,
    train_types,
    values,
    where,
)
from clipkd.tables.table import NOTHING, Column, Entry, Table, spread
from clipkd.tables.teacher_matters import plus


@dataclass
class PageTable:
    """A table that the page's script sorts and filters."""

    columns: list[Column]
    rows: list[list[Entry]]
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    initial: dict[str, str] = field(default_factory=dict)
    """Column title -> the value that is chosen at first."""
    constants: list[str] = field(default_factory=list)
    """Columns of words that are equal in every row: given in a line above the table instead."""

    def __post_init__(self) -> None:
        if len(self.rows) < 2:
            return
        kept = []
        for index, column in enumerate(self.columns):
            texts = {row[index].marked for row in self.rows}
            # The first column stays: it names the rows.
            if column.is_number or column.group or index == 0 or len(texts) > 1:
                kept.append(index)
            else:
                self.constants.append(f"{column.title}: {texts.pop()}")
        self.columns = [self.columns[index] for index in kept]
        self.rows = [[row[index] for index in kept] for row in self.rows]

    @classmethod
    def of(cls, table: Table) -> PageTable:
        """Return one of the tables in results/tables."""
        columns = [replace(column, title=column.title or "Source") for column in table.columns]
        return cls(columns, table.rows, table.title, without_gaps(table.notes))


def without_gaps(notes: Iterable[str]) -> list[str]:
    """Return the notes of a table, without what the top of the page already says is missing."""
    return [note for note in notes if not note.startswith("INCOMPLETE")]


def reach(found: list[Comparison]) -> int:
    """Return how far the axis of the comparisons goes, in points."""
    means = [abs(comparison.difference.mean) for comparison in found if comparison.difference]
    return math.ceil(max(2.0, 2 * max(means, default=0.0)))


def comparisons_table(results: Results, found: list[Comparison]) -> PageTable:
    """Return every comparison with a drawing of its interval."""
    titles = teacher_titles(teacher_names(results.cells))
    columns = words("Method", "Against", "Teacher", "Dataset", "Student", "Recipe")
    columns += [Column("Points"), Column("95 % interval"), Column("Seeds"), *words("Verdict")]
    rows, limit = [], reach(found)
    for comparison in found:
        difference = comparison.difference
        texts = (comparison.method, comparison.against, titles[comparison.teacher])
        place = (dataset_title(comparison.dataset, results.config), comparison.student, comparison.recipe)
        row = [Entry(text) for text in (*texts, *place)]
        tone = comparison.verdict if comparison.verdict in ("better", "worse") else ""
        if difference is None:
            row += [Entry(), Entry(), Entry("0")]
        else:
            low, high = difference.low, difference.high
            interval = Interval(difference.mean, low, high, limit)
            row.append(Entry(plus(difference.mean), False, comparison.is_incomplete, tone, interval))
            row.append(Entry(NOTHING if low is None or high is None else f"{plus(low)} to {plus(high)}"))
            row.append(Entry(str(difference.n)))
        rows.append([*row, Entry(comparison.verdict, tone=tone)])
    return PageTable(columns, rows)


def headline_tables(results: Results) -> list[PageTable]:
    """Return, for each dataset and student, the accuracy that comparisons use: a row for each train type."""
    cells = accuracy_cells(results.cells)
    titles = teacher_titles(teacher_names(cells) or [NO_TEACHER])
    made = []
    for dataset, student in dict.fromkeys((cell.dataset, cell.student) for cell in cells):
        here = where(cells, dataset=dataset, student=student)
        columns, rows = words("Train type"), {name: [Entry(name)] for name in train_types(here)}
        for recipe in values(here, "recipe"):
            kind = headline(recipes.get(recipe).selection)
            mine = where(here, recipe=recipe)
            best = best_mean(results, mine, kind, "top1")
            for teacher in teacher_names(mine) or [NO_TEACHER]:
                columns.append(Column(titles[teacher], f"recipe {recipe}, {KINDS[kind]}"))
                for name, row in rows.items():
                    found = group(mine, train_type=name, teacher=teacher)
                    row.append(entry(results, found, kind, "top1", best) if found else Entry())
        caption = f"Test accuracy in percent: {dataset_title(dataset, results.config)}, student {student}"
        made.append(PageTable(columns, list(rows.values()), caption))
    return made


def explorer(results: Results) -> PageTable:
    """Return every accuracy in one long table, at first limited to those that comparisons use."""
    columns = words("Train type", "Teacher", "Dataset", "Student", "Recipe", "Epoch", "Metric", "Shown as")
    columns.append(Column("Test accuracy, %"))
    rows = []
    cells = accuracy_cells(results.cells)
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.dataset, cell.student, cell.teacher, cell.train_type, cell.recipe), []).append(cell)
    for (dataset, student, teacher, train_type, recipe), members in groups.items():
        selection = recipes.get(recipe).selection
        for kind in ("last", "selected" if selection == "validation" else "best-test"):
            for metric, name in METRICS.items():
                summary = results.summary(members, kind, metric)
                is_headline = kind == headline(selection) and metric == "top1"
                texts = (train_type, teacher_title(teacher), dataset_title(dataset, results.config), student, recipe)
                row = [Entry(text) for text in (*texts, KINDS[kind].partition(",")[0], name)]
                row.append(Entry("headline" if is_headline else "more"))
                bar = Bar(summary.mean) if summary else None
                row.append(Entry(spread(summary, scale=100), False, results.incomplete(members), drawing=bar))
                rows.append(row)
    return PageTable(columns, rows, initial={"Shown as": "headline"})


def runs_table(results: Results) -> PageTable:
    """Return every run of the grid: finished, failed or missing."""
    columns = words("Train type", "Teacher", "Teacher source", "Dataset", "Student", "Recipe")
    columns += [Column(name) for name in ("Seed", "Epochs", "Top-1, last, %", "Top-1, headline, %", "s per epoch")]
    columns += words("State")
    rows = []
    for cell in results.cells:
        source = "none" if cell.method.signal == "nothing" else cell.teacher_source
        texts = (cell.train_type, teacher_title(cell.teacher), source, dataset_title(cell.dataset, results.config))
        row = [Entry(text) for text in (*texts, cell.student, cell.recipe, str(cell.seed), str(cell.epochs))]
        run = results.runs.get(cell)
        if run is None:
            failure = results.failed.get(cell)
            row += [Entry()] * 3 + [Entry(f"failed: {failure}" if failure else "missing", tone="worse")]
        else:
            chosen = run.metrics.chosen(headline(cell.recipe_spec.selection))
            row += [Entry(f"{100 * score.test.top1:.2f}") for score in (run.metrics.last, chosen)]
            row += [Entry(f"{run.cost.median_seconds:.3g}"), Entry("finished")]
        rows.append(row)
    return PageTable(columns, rows)


def words(*titles: str) -> list[Column]:
    """Return columns of text."""
    return [Column(title, is_number=False) for title in titles]
