"""Accuracy tables: teachers as rows, dataset x train type as columns."""

from __future__ import annotations

import itertools

from clipkd.spec.cells import NO_TEACHER, Cell
from clipkd.tables.results import (
    Results,
    accuracy_cells,
    dataset_title,
    teacher_names,
    teacher_titles,
    train_types,
    values,
    where,
)
from clipkd.tables.table import (
    NOTHING,
    Column,
    Entry,
    Table,
    attribute,
    spread,
)
from clipkd.tables.teacher_stats import Head, needs_full, needs_head

FAILED = "failed"
"""Stands where every run of a cell stopped on a number that is not finite."""
SHARE = 100.0
"""Accuracies are shares of 1 in the runs, percent in the tables."""


def table(results: Results, recipe: str, kind: str, metric: str) -> Table:
    """Return the table of one recipe, kind (`last`, `selected`, `best-test`) and metric (`top1`, `top5`)."""
    cells = where(accuracy_cells(results.cells), recipe=recipe)
    students = values(cells, "student")
    titles = teacher_titles(teacher_names(cells) or [NO_TEACHER])
    columns = [Column("Teacher", is_number=False)] + [Column("Student", is_number=False)] * (len(students) > 1)
    made = Table("", "", columns)
    rows = {
        (student, teacher): [Entry(titles[teacher])] + [Entry(student)] * (len(students) > 1)
        for student, teacher in itertools.product(students, titles)
        if group(cells, student=student, teacher=teacher)
    }
    for dataset in values(cells, "dataset"):
        here = where(cells, dataset=dataset)
        title, types = dataset_title(dataset, results.config), train_types(here)
        columns += [Column(name, title) for name in ("teacher's own", *types)]
        best = best_mean(results, here, kind, metric)
        for (student, teacher), row in rows.items():
            mine = where(here, student=student)
            head = probe(results, where(mine, teacher=teacher))
            row.append(head_entry(results, where(mine, teacher=teacher), head, metric))
            row += [entry(results, group(mine, train_type=name, teacher=teacher), kind, metric, best) for name in types]
        made.records += records(results, here, kind, metric, best)
    made.rows = list(rows.values())
    made.notes = notes(results, cells, kind)
    return made


def group(cells: list[Cell], teacher: str, **wanted: str) -> list[Cell]:
    """Return the cells of a teacher's row: its own, and those that have no teacher."""
    return [cell for cell in where(cells, **wanted) if cell.teacher in (teacher, NO_TEACHER)]


def best_mean(results: Results, cells: list[Cell], kind: str, metric: str) -> str:
    """Return the highest mean of a dataset, as it is printed: equal prints are equally good."""
    keys = dict.fromkeys((cell.student, cell.teacher, cell.train_type) for cell in cells)
    found = [results.summary(where(cells, student=s, teacher=t, train_type=m), kind, metric) for s, t, m in keys]
    return printed(max((summary.mean for summary in found if summary), default=-1.0))


def printed(mean: float) -> str:
    return f"{mean * SHARE:.2f}"


def entry(results: Results, cells: list[Cell], kind: str, metric: str, best: str) -> Entry:
    """Return the entry of one student, teacher and train type."""
    summary = results.summary(cells, kind, metric)
    is_best = summary is not None and printed(summary.mean) == best
    has_failed = bool(cells) and all(cell in results.failed for cell in cells)
    text = FAILED if has_failed else spread(summary, scale=SHARE)
    return Entry(text, is_best, results.incomplete(cells))


def probe(results: Results, cells: list[Cell]) -> Head | None:
    """Return the teacher's own head; None where no run of this recipe has the teacher's full embeddings."""
    return next((results.teachers.head(cell) for cell in cells if needs_full(cell)), None)


def head_entry(results: Results, cells: list[Cell], head: Head | None, metric: str) -> Entry:
    if head is None:
        # Several teachers have a head each, and none together.
        return Entry(NOTHING, is_incomplete=any(needs_head(cell) and len(cell.by_teacher) == 1 for cell in cells))
    return Entry(f"{getattr(head, metric) * SHARE:.2f}")


def records(results: Results, cells: list[Cell], kind: str, metric: str, best: str) -> list[dict]:
    """Return one record for each student, teacher and train type of a dataset."""
    found = []
    for student, teacher, name in dict.fromkeys((cell.student, cell.teacher, cell.train_type) for cell in cells):
        mine = where(cells, student=student, teacher=teacher)
        members = where(mine, train_type=name)
        summary, head = results.summary(members, kind, metric), probe(results, mine)
        found.append(
            {
                "dataset": members[0].dataset,
                "student": student,
                "teacher": teacher,
                "train_type": name,
                "recipe": members[0].recipe,
                "epoch": kind,
                "metric": metric,
                "epochs": members[0].epochs,
                "mean_percent": percent(attribute(summary, "mean")),
                "deviation_percent": percent(attribute(summary, "deviation")),
                "n": summary.n if summary else 0,
                "n_asked": len(members),
                "is_best": int(summary is not None and printed(summary.mean) == best),
                "teacher_head": attribute(head, "name"),
                "teacher_head_percent": percent(attribute(head, metric)),
            }
        )
    return found


def percent(share: float | None) -> float | None:
    return None if share is None else share * SHARE


def notes(results: Results, cells: list[Cell], kind: str) -> list[str]:
    """Return the lines that say how the numbers were obtained."""
    from clipkd.tables import KINDS

    epochs = sorted(set(values(cells, "epochs")))
    length = f"{epochs[0]} epochs" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs (see the CSV)"
    heads = {head.name for cell in cells if needs_full(cell) and (head := results.teachers.head(cell))}
    own = " or ".join(sorted(heads)) or "linear probe"
    replayed = sorted({cell.dataset for cell in cells if cell.teacher_source == "replayed"})
    limited = [f"{', '.join(replayed)}: teacher replayed; the student saw only the stored random views of each image."]
    return [
        *(limited if replayed else []),
        f"Test accuracy in percent: mean ± sample standard deviation over seeds (n). Runs of {length}; {KINDS[kind]}.",
        f"Student: {', '.join(values(cells, 'student'))}. Bold: the highest mean of a dataset.",
        f"teacher's own: test accuracy of the teacher's {own} on its stored embeddings; – where this grid stores none.",
        "supervised has no teacher: the same runs stand in each row. Names with random, permuted or onehot are "
        "controls: embed-KD without the teacher's content.",
    ]
