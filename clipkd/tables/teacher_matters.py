"""Does the teacher matter: differences to training without it, and to its controls, with their intervals."""

from __future__ import annotations

from typing import Any

from clipkd.tables.comparisons import Comparison, comparisons, signed
from clipkd.tables.results import Results, dataset_title, teacher_names, teacher_titles
from clipkd.tables.table import NOTHING, Column, Entry, Table, attribute

COLUMNS = [
    Column("Recipe", is_number=False),
    Column("Dataset", is_number=False),
    Column("Student", is_number=False),
    Column("Teacher", is_number=False),
    Column("Method", is_number=False),
    Column("Against", is_number=False),
    Column("Difference, points"),
    Column("95 % CI"),
    Column("n"),
    Column("In words", is_number=False),
]


def table(results: Results) -> Table:
    """Return the table of comparisons."""
    found, alone = comparisons(results)
    titles = teacher_titles(teacher_names(results.cells))
    made = Table("", "", COLUMNS)
    for comparison in found:
        title = dataset_title(comparison.dataset, results.config)
        made.rows.append(entries(comparison, title, titles[comparison.teacher]))
        made.records.append(record(comparison))
    by_kind = {kind: sorted({c.recipe for c in found if c.kind == kind}) for kind in ("selected", "last")}
    epochs = {"selected": "the validation-selected epoch", "last": "the last epoch"}
    used = "; ".join(f"recipe {', '.join(names)}: {epochs[kind]}" for kind, names in by_kind.items() if names)
    made.notes = [
        f"Difference in test top-1, in percentage points, paired by seed. Epoch compared: {used or 'none'}.",
        "Interval: Student's t over the seeds' differences. It covers the choice of seed only, on one test set; it is "
        "not corrected for the number of comparisons. With 2 seeds it is about 13 times as wide as the gap between "
        "their two differences, so that only large effects can show.",
        "no difference shown is no proof of equality. Controls keep everything of embed-KD but the teacher's content: "
        "where embed-KD is not above them, the teacher's content is not shown to matter.",
        *alone,
    ]
    return made


def entries(comparison: Comparison, dataset: str, teacher: str) -> list[Entry]:
    """Return the entries of one comparison."""
    found, marks = comparison.difference, comparison.is_incomplete
    interval = NOTHING
    if found is not None and found.low is not None and found.high is not None:
        interval = f"{signed(found.low)} to {signed(found.high)}"
    return [
        *map(Entry, (comparison.recipe, dataset, comparison.student, teacher, comparison.method, comparison.against)),
        Entry(plus(found.mean) if found else NOTHING, is_incomplete=marks),
        Entry(interval, is_incomplete=marks),
        Entry(str(found.n) if found else "0", is_incomplete=marks),
        Entry(comparison.sentence, is_incomplete=marks),
    ]


def plus(value: float) -> str:
    """Return a signed number, with its sign where it is not zero."""
    text = signed(value)
    return text if text.startswith("−") or float(text) == 0 else f"+{text}"


def record(comparison: Comparison) -> dict[str, Any]:
    """Return the CSV record of one comparison."""
    found = comparison.difference
    return {
        "recipe": comparison.recipe,
        "dataset": comparison.dataset,
        "student": comparison.student,
        "teacher": comparison.teacher,
        "method": comparison.method,
        "against": comparison.against,
        "epoch": comparison.kind,
        "difference_points": attribute(found, "mean"),
        "low_points": attribute(found, "low"),
        "high_points": attribute(found, "high"),
        "n": found.n if found else 0,
        "verdict": comparison.verdict,
        "sentence": comparison.sentence,
        "incomplete": int(comparison.is_incomplete),
    }
