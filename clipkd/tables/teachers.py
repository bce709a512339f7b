"""Teachers and what their embeddings cost: size, own accuracy, extraction, disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkd.data.currency import packed_content
from clipkd.embeddings.seen_images import change
from clipkd.plugins.teachers import StudentTeacher, TrainedCNN
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.tables.fields import labels_field
from clipkd.tables.results import Results, dataset_title, teacher_names, teacher_titles, values, where
from clipkd.tables.table import NOTHING, Column, Entry, Field, Table, filled, significant, words
from clipkd.tables.teacher_stats import Extraction, Head, Teacher, needs_full, needs_head, needs_sample

SETS = {"full": "Embeddings of every image", "sample": "Embeddings for prototypes"}


@dataclass(frozen=True)
class Row:
    """A teacher on a dataset, as a recipe presents images to it."""

    dataset: str
    teacher: str
    seed: int | None
    """Of a teacher that is another run for each seed; else None."""
    recipe: str
    student: str
    """All that share the embeddings."""
    labels: str
    """How many the head is fitted to, or `all`."""
    stats: Teacher | None
    head: Head | None
    needs_head: bool
    class_cosine: float | None
    """Mean cosine between the prototypes of different classes."""
    extractions: dict[str, Extraction | None]
    needed: dict[str, bool]

    @property
    def device(self) -> str:
        return "; ".join(sorted({one.device for one in self.extractions.values() if one}))


def table(results: Results) -> Table:
    """Return the table: one row for each dataset, teacher, recipe and, where its size matters, student."""
    every = list(dict.fromkeys(one.kind for cell in results.cells for one in cell.by_teacher))
    titles = teacher_titles(teacher_names(every))
    rows = [
        row(results, cells)
        for dataset in values(every, "dataset")
        for teacher in titles
        for cells in stores(results, where(every, dataset=dataset, teacher=teacher))
    ]
    fields = [
        words("dataset", "Dataset", lambda row: dataset_title(row.dataset, results.config)),
        words(
            "teacher",
            "Teacher",
            lambda row: titles[row.teacher] + ("" if row.seed is None else f", seed {row.seed}"),
            lambda row: row.teacher,
        ),
        Field("seed", value=lambda row: row.seed),
        words("recipe", "Recipe"),
        words("student", "Student", lambda row: row.student.replace(" ", ", ")),
        *labels_field(results),
        Field(
            "parameters",
            Column("parameters, M"),
            lambda row: significant(row.stats and row.stats.parameters / 1e6),
            lambda row: row.stats and row.stats.parameters,
        ),
        Field(
            "test_accuracy_percent",
            Column("own test accuracy, %"),
            lambda row: percent(row.stats and row.stats.accuracy),
            lambda row: None if row.stats is None or row.stats.accuracy is None else row.stats.accuracy * 100,
        ),
        Field("head", value=lambda row: row.head and row.head.name),
        head_field("top1", "top-1, %"),
        head_field("top5", "top-5, %"),
        Field(
            "class_cosine",
            Column("cosine between classes", "Prototypes"),
            lambda row: NOTHING if row.class_cosine is None else f"{row.class_cosine:.3f}".replace("-", "−"),
        ),
        Field("device"),
        *(field for name in SETS for field in extraction_fields(name)),
        Field(column=Column("Device", is_number=False), entry=lambda row: row.device or NOTHING),
    ]
    made = filled(fields, rows)
    made.notes = [
        "Each recipe preprocesses the teacher's images differently and has separate embeddings, which are computed "
        "once and shared by all students and seeds. Seconds and passes are those of the extraction.",
        "own test accuracy: on the dataset that the workflow trained the teacher on, of the classifier trained with "
        "it. Head on embeddings: the classifier on stored embeddings that provides the class scores for `vanilla`.",
        "Prototypes: the mean cosine between the vectors of two different classes. Near 1, all classes have nearly the "
        "same vector, as those of an untrained teacher do; independent directions have 0.",
        "– : not needed by any run of this grid, or not known. 1 MB = 1,000,000 bytes.",
        *earlier_notes(results, every, titles),
    ]
    return made


def earlier_notes(results: Results, cells: list[Cell], titles: Mapping[str, str]) -> list[str]:
    """Return a line for each teacher that was trained on its students' dataset as it was before."""
    found = {(cell.teacher, trained_before(cell, results.teachers.layout)): None for cell in cells}
    return [f"{titles[name]} {words}." for name, words in found if words]


def trained_before(cell: Cell, layout: Layout) -> str:
    """Return what a cell's teacher was trained on where that is its dataset as it was before; "" where it is not."""
    spec, packed = cell.teacher_spec, layout.dataset(cell.dataset_spec)
    if isinstance(spec, TrainedCNN) and spec.dataset == cell.dataset:
        changed = change(layout.teacher(spec), packed)
        return f"{changed}; its own test accuracy is that of then" if changed else ""
    if isinstance(spec, StudentTeacher) and spec.content and spec.brings_head(cell.dataset):
        is_other = packed_content(cell.dataset_spec, packed) not in (None, spec.content)
        return f"was trained on {cell.dataset} as it was before, perhaps on what are test images now" * is_other
    return ""


def stores(results: Results, cells: list[Cell]) -> list[list[Cell]]:
    """Return the cells by recipe and by the embeddings that they would read (students of a size may share them)."""
    layout = results.teachers.layout
    groups: dict[tuple[str, Path | None, Path, str], list[Cell]] = {}
    for cell in cells:
        is_per_class = cell.teacher_spec is not None and cell.teacher_spec.is_per_class
        full = None if is_per_class else layout.full_embeddings(cell).folder
        key = (results.labels[cell.recipe], full, layout.sample_embeddings(cell).folder, str(cell.labels))
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def row(results: Results, cells: list[Cell]) -> Row:
    """Return the row of one teacher, dataset and recipe."""
    stats, first = results.teachers, cells[0]
    taught = [cell for cell in cells if needs_sample(cell)]
    # Prototypes of few labelled images are made of the embeddings of every image.
    own_sample = stats.layout.labelled_sample(first) is None
    sample = stats.sample(first) if own_sample else None
    return Row(
        first.dataset,
        first.teacher,
        first.seed if first.teacher_of_seed != first.teacher else None,
        results.labels[first.recipe],
        " ".join(values(cells, "student")),
        str(first.labels),
        stats.teacher(first),
        stats.heads(cells),
        any(map(needs_head, cells)),
        stats.class_cosine(taught[0]) if taught else None,
        {"full": stats.full(first), "sample": sample},
        {"full": any(map(needs_full, cells)), "sample": bool(taught) and own_sample},
    )


def head_field(metric: str, title: str) -> Field:
    """Return the field of the accuracy of the head on stored embeddings."""

    def share(row: Row) -> Any:
        return getattr(row.head, metric, None)

    return Field(
        f"head_{metric}_percent",
        Column(title, "Head on embeddings"),
        lambda row: Entry(percent(share(row)), is_incomplete=row.head is None and row.needs_head),
        lambda row: None if share(row) is None else share(row) * 100,
    )


def extraction_fields(name: str) -> list[Field]:
    """Return seconds, passes and disk of one extraction."""

    def field(part: str, title: str, attribute: str, unit: float) -> Field:
        def entry(row: Row) -> Entry:
            value = getattr(row.extractions[name], attribute, None)
            if value is None:
                return Entry(is_incomplete=row.needed[name])
            return Entry(f"{value:,}" if attribute == "forward_passes" else significant(value / unit))

        found = Column(title, SETS[name])
        return Field(f"{name}_{part}", found, entry, lambda row: getattr(row.extractions[name], attribute, None))

    return [
        field("seconds", "s", "seconds", 1),
        field("passes", "passes", "forward_passes", 1),
        field("disk_bytes", "disk, MB", "disk_bytes", 1e6),
    ]


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share * 100:.2f}"
