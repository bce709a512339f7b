"""Teachers and what their embeddings cost: size, own accuracy, extraction, disk."""

from __future__ import annotations

from typing import Any

from clipkd.spec.cells import Cell
from clipkd.tables.results import (
    Results,
    dataset_title,
    teacher_names,
    teacher_titles,
    values,
    where,
)
from clipkd.tables.table import (
    NOTHING,
    Column,
    Entry,
    Table,
    attribute,
    significant,
)
from clipkd.tables.teacher_stats import Extraction, needs_full, needs_head, needs_sample

SETS = {"full": "Embeddings of every image", "sample": "Embeddings for prototypes"}
COLUMNS = [
    Column("Dataset", is_number=False),
    Column("Teacher", is_number=False),
    Column("Recipe", is_number=False),
    Column("Student", is_number=False),
    Column("parameters, M"),
    Column("own test accuracy, %"),
    Column("top-1, %", "Head on embeddings"),
    Column("top-5, %", "Head on embeddings"),
    *(Column(title, group) for group in SETS.values() for title in ("s", "passes", "disk, MB")),
    Column("Device", is_number=False),
]


def table(results: Results) -> Table:
    """Return the table: one row for each dataset, teacher, recipe and, where its size matters, student."""
    made = Table("", "", COLUMNS)
    every = list(dict.fromkeys(one for cell in results.cells for one in cell.by_teacher))
    titles = teacher_titles(teacher_names(every))
    for dataset in values(every, "dataset"):
        for teacher in titles:
            for cells in stores(results, where(every, dataset=dataset, teacher=teacher)):
                entries, record = row(results, cells)
                made.rows.append([Entry(dataset_title(dataset, results.config)), Entry(titles[teacher]), *entries])
                made.records.append({"dataset": dataset, "teacher": teacher, **record})
    made.notes = [
        "A recipe says how images are presented to the teacher, so each has embeddings of its own; they are made once "
        "and shared by every student and seed. Seconds and passes (images through the teacher) are of that one pass.",
        "own test accuracy: of the teacher's own classifier, where the workflow trained the teacher. "
        "Head on embeddings: the classifier on stored embeddings that gives `vanilla` its class scores.",
        "– : not needed by any run of this grid, or not known. 1 MB = 1,000,000 bytes.",
    ]
    return made


def stores(results: Results, cells: list[Cell]) -> list[list[Cell]]:
    """Return the cells by recipe and by the embeddings that they would read (students of a size may share them)."""
    layout = results.teachers.layout
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        reads_names = cell.teacher_spec is not None and cell.teacher_spec.reads_names
        full = None if reads_names else layout.full_embeddings(cell).folder
        key = (cell.recipe, full, layout.sample_embeddings(cell).folder)
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def row(results: Results, cells: list[Cell]) -> tuple[list[Entry], dict[str, Any]]:
    """Return entries and record of one teacher, dataset and recipe."""
    facts, first = results.teachers, cells[0]
    teacher, head = facts.teacher(first), facts.head(first)
    found = {"full": facts.full(first), "sample": facts.sample(first)}
    asked = {"full": any(map(needs_full, cells)), "sample": any(map(needs_sample, cells))}
    devices = "; ".join(sorted({extraction.device for extraction in found.values() if extraction}))
    entries = [
        Entry(first.recipe),
        Entry(", ".join(values(cells, "student"))),
        Entry(significant(teacher.parameters / 1e6 if teacher else None)),
        Entry(percent(attribute(teacher, "accuracy"))),
        *(
            Entry(percent(value), is_incomplete=head is None and any(map(needs_head, cells)))
            for value in (attribute(head, "top1"), attribute(head, "top5"))
        ),
        *(entry for name in SETS for entry in extraction_entries(found[name], asked[name])),
        Entry(devices or NOTHING),
    ]
    record: dict[str, Any] = {
        "recipe": first.recipe,
        "student": " ".join(values(cells, "student")),
        "parameters": attribute(teacher, "parameters"),
        "test_accuracy_percent": teacher.accuracy * 100 if teacher and teacher.accuracy is not None else None,
        "head": attribute(head, "name"),
        "head_top1_percent": head and head.top1 * 100,
        "head_top5_percent": head and head.top5 * 100,
        "device": devices,
    }
    for name, extraction in found.items():
        record |= {
            f"{name}_seconds": attribute(extraction, "seconds"),
            f"{name}_passes": attribute(extraction, "forward_passes"),
            f"{name}_disk_bytes": attribute(extraction, "disk_bytes"),
        }
    return entries, record


def extraction_entries(extraction: Extraction | None, asked: bool) -> list[Entry]:
    """Return seconds, passes and disk of one extraction."""
    if extraction is None:
        return [Entry(is_incomplete=asked)] * 3
    return [
        Entry(significant(extraction.seconds)),
        Entry(f"{extraction.forward_passes:,}"),
        Entry(significant(extraction.disk_bytes / 1e6)),
    ]


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share * 100:.2f}"
