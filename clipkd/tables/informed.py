"""Teachers that saw the labels which their students lack: what these gain is not the result of few labels."""

from __future__ import annotations

from collections.abc import Sequence

from clipkd.plugins.teachers import StudentTeacher, TeacherSpec, TrainedCNN, TrainedTeacher
from clipkd.spec.cells import Cell
from clipkd.spec.settings import Config
from clipkd.tables.results import dataset_title


def informed_notes(cells: Sequence[Cell], config: Config) -> list[str]:
    """Return the note on teachers of few-label students that have seen all labels themselves; none without any."""
    runs = {cell.folder: cell for cell in cells}
    found = {
        (spec.title, cell.dataset): None
        for cell in cells
        for spec in (cell.teacher_spec.members if cell.few_labels and cell.teacher_spec else ())
        if saw_all_labels(spec, cell.dataset, runs)
    }
    return [
        f"{title} was trained with all labels of {dataset_title(dataset, config)}: what its students learn "
        "from it is not the result of few labels."
        for title, dataset in found
    ]


def saw_all_labels(spec: TeacherSpec, dataset: str, runs: dict[str, Cell]) -> bool:
    """Return whether a teacher, or one of those that taught it, was trained with all labels of a dataset.

    `runs`: folder -> cell of each run that may have taught.
    """
    if not isinstance(spec, StudentTeacher):
        return isinstance(spec, TrainedCNN | TrainedTeacher) and spec.dataset == dataset and spec.epochs > 0
    cell = runs.get(spec.run)
    if cell is None:
        return spec.brings_head(dataset) and spec.says_labels and not spec.few_labels
    above = cell.teacher_spec.members if cell.teacher_spec else ()
    return (cell.dataset == dataset and not cell.few_labels) or any(saw_all_labels(one, dataset, runs) for one in above)
