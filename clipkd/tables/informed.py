"""Teachers that saw what their students must not: the labels that these lack, or the images they are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from clipkd.core.errors import InputError
from clipkd.plugins import recipes
from clipkd.plugins.teachers import StudentTeacher, TeacherSpec, TrainedCNN, TrainedTeacher
from clipkd.spec.cells import Cell
from clipkd.spec.settings import Config
from clipkd.tables.results import dataset_title


def informed_notes(cells: Sequence[Cell], config: Config) -> list[str]:
    """Return the notes on teachers of few-label students that have seen all labels themselves, or the test split."""
    runs = {cell.folder: cell for cell in cells}
    found = {
        (spec.title, cell.dataset): None
        for cell in cells
        for spec in (cell.teacher_spec.members if cell.few_labels and cell.teacher_spec else ())
        if saw_all_labels(spec, cell.dataset, runs)
    }
    notes = [
        f"{title} was trained with all labels of {dataset_title(dataset, config)}: what its students learn "
        "from it is not the result of few labels."
        for title, dataset in found
    ]
    chosen = {
        (spec.title, cell.dataset): None
        for cell in cells
        for spec in (cell.teacher_spec.members if cell.teacher_spec else ())
        if was_chosen_by_test(spec, cell.dataset, runs)
    }
    return notes + [
        f"{title} is a student at the epoch with the best accuracy on the test images of "
        f"{dataset_title(dataset, config)}: the accuracies of its students are optimistic."
        for title, dataset in chosen
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


def was_chosen_by_test(spec: TeacherSpec, dataset: str, runs: dict[str, Cell]) -> bool:
    """Return whether a teacher, or one of those that taught it, is a student whose epoch the test split chose."""
    if not isinstance(spec, StudentTeacher):
        return False
    cell = runs.get(spec.run)
    if cell is None:  # a run that is done: its folder says which recipe, and on what
        recipe, trained_on = (*spec.run.split("/"), "")[:2]
        with suppress(InputError):
            return trained_on == dataset and recipes.get(recipe.partition(".")[0]).selection == "test"
        return False
    above = cell.teacher_spec.members if cell.teacher_spec else ()
    is_chosen = cell.recipe_spec.selection == "test" and cell.dataset == dataset
    return is_chosen or any(was_chosen_by_test(one, dataset, runs) for one in above)
