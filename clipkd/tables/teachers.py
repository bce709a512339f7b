"""Teachers and what their embeddings cost: size, own accuracy, extraction, disk."""

from __future__ import annotations

from typing import Any

from clipkd.cells import Cell
from clipkd.results import Results, dataset_title, teacher_names, teacher_titles, values, where
from clipkd.tables.table import NOTHING, Column, Entry, Table, significant
from clipkd.teacher_facts import Extraction, needs_full, needs_head, needs_sample

FIELDS = [
    "dataset", "teacher", "recipe", "student", "parameters", "test_accuracy_percent", "head", "head_top1_percent", "head_top5_percent",
    "full_seconds", "full_passes", "full_disk_bytes", "sample_seconds", "sample_passes", "sample_disk_bytes", "device",
]  # fmt: skip
SETS = {"full": "Embeddings of every image", "sample": "Embeddings for prototypes"}
COLUMNS = [
    Column("Dataset", is_number=False), Column("Teacher", is_number=False), Column("Recipe", is_number=False),
    Column("Student", is_number=False), Column("parameters, M"), Column("own test accuracy, %"),
    Column("top-1, %", "Head on embeddings"), Column("top-5, %", "Head on embeddings"),
    *(Column(title, group) for group in SETS.values() for title in ("s", "passes", "disk, MB")),
    Column("Device", is_number=False),
]  # fmt: skip


def table(results: Results) -> Table:
    """Return the table: one row for each dataset, teacher, recipe and, where its size matters, student."""
    made = Table("", "", COLUMNS, fields=FIELDS)
    titles = teacher_titles(teacher_names(results.cells))
    for dataset in values(results.cells, "dataset"):
        for teacher in titles:
            for cells in stores(results, where(results.cells, dataset=dataset, teacher=teacher)):
                entries, record = row(results, cells)
                made.rows.append([Entry(dataset_title(dataset, results.config)), Entry(titles[teacher]), *entries])
                made.records.append({"dataset": dataset, "teacher": teacher, **record})
    made.notes = [
        "A recipe says how images are presented to the teacher, so each has embeddings of its own; they are made once and shared "
        "by every student and seed. Seconds and passes (images through the teacher) are those of that one extraction.",
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
        key = (cell.recipe, layout.full_embeddings(cell).folder, layout.sample_embeddings(cell).folder)
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
        Entry(significant(teacher and teacher.parameters / 1e6)),
        Entry(percent(teacher.accuracy if teacher else None)),
        *(Entry(percent(value), is_incomplete=head is None and any(map(needs_head, cells)))
          for value in ((head.top1, head.top5) if head else (None, None))),
        *(entry for name in SETS for entry in extraction_entries(found[name], asked[name])),
        Entry(devices or NOTHING),
    ]  # fmt: skip
    record = {
        "recipe": first.recipe, "student": " ".join(values(cells, "student")), "parameters": teacher and teacher.parameters,
        "test_accuracy_percent": teacher.accuracy * 100 if teacher and teacher.accuracy is not None else None,
        "head": head and head.name, "head_top1_percent": head and head.top1 * 100, "head_top5_percent": head and head.top5 * 100,
        "device": devices,
    }  # fmt: skip
    for name, extraction in found.items():
        record |= {
            f"{name}_seconds": extraction and extraction.seconds, f"{name}_passes": extraction and extraction.forward_passes,
            f"{name}_disk_bytes": extraction and extraction.disk_bytes,
        }  # fmt: skip
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
