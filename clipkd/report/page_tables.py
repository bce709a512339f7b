"""The report's tables: those in results/tables, and longer ones to search, sort and filter."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass, field, replace

from clipkd.tables.accuracy import Lookup, accuracy, entry, teachers_of, train_types_of
from clipkd.tables.comparisons import QUESTIONS, UNLIKE, Comparison, p_value
from clipkd.tables.drawings import Bar, Interval
from clipkd.tables.grouping import AXES, groups, rows_of, with_labels
from clipkd.tables.results import Results, dataset_title, teacher_names, teacher_titles
from clipkd.tables.table import NOTHING, Column, Entry, Table
from clipkd.tables.teacher_matters import over, plus
from clipkd.tables.terms import EPOCHS, METRICS, of_labels


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
    def of(cls, table: Table, said: Container[str]) -> PageTable:
        """Return one of the tables in results/tables, without the notes that the page gives once for all of them."""
        columns = [replace(column, title=column.title or "Source") for column in table.columns]
        return cls(columns, table.rows, table.title, [note for note in table.notes if note not in said])


def reach(found: list[Comparison]) -> int:
    """Return how far the axis of the comparisons goes, in points."""
    means = [abs(comparison.difference.mean) for comparison in found if comparison.difference]
    return math.ceil(max(2.0, 2 * max(means, default=0.0)))


def comparisons_table(results: Results, found: list[Comparison]) -> PageTable:
    """Return every comparison with a drawing of its interval."""
    titles = teacher_titles(teacher_names(results.cells))
    columns = words("Method", "Against", "Question", "Teacher", "Dataset", "Student", "Recipe")
    columns += words("Labels") * results.has_few_labels
    columns += map(Column, ("Points", "95 % interval, uncorrected", "Seeds", "p, Holm"))
    columns += words("Interval over", "Verdict")
    rows, limit = [], reach(found)
    for comparison in found:
        difference = comparison.difference
        against = f"{comparison.against} {UNLIKE}" if comparison.unlike else comparison.against
        texts = (comparison.method, against, QUESTIONS[comparison.question], titles[comparison.teacher])
        place = (dataset_title(comparison.dataset, results.config), comparison.student, comparison.recipe)
        row = [Entry(text) for text in (*texts, *place, *[comparison.labels] * results.has_few_labels)]
        tone = comparison.verdict if comparison.verdict in ("better", "worse") else ""
        if difference is None:
            row += [Entry(), Entry(), Entry("0")]
        else:
            low, high = difference.low, difference.high
            interval = Interval(difference.mean, low, high, limit)
            row.append(Entry(plus(difference.mean), False, comparison.is_incomplete, tone, interval))
            row.append(Entry(NOTHING if low is None or high is None else f"{plus(low)} to {plus(high)}"))
            row.append(Entry(str(difference.n)))
        row += [Entry(p_value(comparison.corrected)), Entry(over(comparison) or NOTHING)]
        rows.append([*row, Entry(comparison.verdict, tone=tone)])
    return PageTable(columns, rows)


def headline_tables(results: Results) -> list[PageTable]:
    """Return, for each dataset and student, the accuracy that comparisons use: a row for each train type."""
    runs = results.comparable
    runs = runs[runs.is_headline]
    titles = teacher_titles(runs.teacher.unique())  # of a student that is only trained alone, too
    means = accuracy(runs, best_of=("dataset", "student", "labels", "recipe"))
    made = []
    for (dataset, student, labels), here in groups(runs, "dataset", "student", "labels"):
        columns, rows = words("Train type"), {name: [Entry(name)] for name in train_types_of(here)}
        for recipe, mine in groups(here, "recipe"):
            look = Lookup(means[(means.dataset == dataset) & (means.recipe == recipe)])
            for teacher in teachers_of(mine):
                columns.append(Column(titles[teacher], f"recipe {recipe}, {EPOCHS[mine.epoch.iloc[0]]}"))
                for name, row in rows.items():
                    row.append(entry(look(student, labels, teacher, name)))
        title = f"{dataset_title(dataset, results.config)}, student {student}{of_labels(labels)}"
        made.append(PageTable(columns, list(rows.values()), f"Test accuracy in percent: {title}"))
    return made


def explorer(results: Results) -> PageTable:
    """Return every accuracy in one long table, at first limited to those that comparisons use."""
    columns = words("Train type", "Teacher", "Dataset", "Student", "Recipe", "Epoch", "Metric", "Shown as")
    columns.append(Column("Test accuracy, %"))
    rows, titles = [], teacher_titles(results.frame.teacher.unique())
    for _, runs in groups(results.comparable, *AXES):
        for _, chosen in groups(runs, "epoch"):
            for metric, name in METRICS.items():
                (found,) = rows_of(accuracy(chosen, metric))
                is_headline = chosen.is_headline.all() and metric == "top1"
                names = (with_labels(found), titles[found.teacher], dataset_title(found.dataset, results.config))
                texts = (*names, found.student, found.recipe, EPOCHS[found.epoch].partition(",")[0], name)
                shown = replace(entry(found), is_best=False, drawing=Bar(found.mean) if found.n else None)
                rows.append([*map(Entry, texts), Entry("headline" if is_headline else "more"), shown])
    return PageTable(columns, rows, initial={"Shown as": "headline"})


def runs_table(results: Results) -> PageTable:
    """Return every run of the grid: finished, failed or missing."""
    columns = words("Train type", "Teacher", "Teacher source", "Dataset", "Student", "Recipe")
    columns += [Column(name) for name in ("Seed", "Epochs", "Top-1, last, %", "Top-1, headline, %", "s per epoch")]
    columns += words("State")
    rows, titles = [], teacher_titles(results.frame.teacher.unique())
    last, chosen = (results.frame[mask] for mask in (results.frame.epoch == "last", results.frame.is_headline))
    for run, headline in zip(rows_of(last), rows_of(chosen), strict=True):
        names = (with_labels(run), titles[run.teacher], run.teacher_source)
        texts = (*names, dataset_title(run.dataset, results.config), run.student, run.recipe, run.seed, run.epochs)
        row = [Entry(str(text)) for text in texts]
        if run.state == "finished":
            tops = (run.top1, headline.top1)
            is_shown = run.is_chosen and run.labels != "none"
            row += [Entry(f"{100 * top1:.2f}") if is_shown else Entry() for top1 in tops]
            state = "finished" if run.is_chosen else "finished, setting not chosen"
            row += [Entry(f"{run.seconds_per_epoch:.3g}"), Entry(state)]
        else:
            state = f"failed: {run.failure}" if run.state == "failed" else "missing"
            row += [Entry()] * 3 + [Entry(state, tone="worse")]
        rows.append(row)
    return PageTable(columns, rows)


def words(*titles: str) -> list[Column]:
    """Return columns of text."""
    return [Column(title, is_number=False) for title in titles]
