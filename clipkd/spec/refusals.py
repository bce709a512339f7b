"""What a cell can't be, refused in words before any work; and where its teacher's signal comes from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from clipkd.core.errors import InputError
from clipkd.plugins import methods
from clipkd.plugins.teachers import SeveralTeachers, StudentTeacher, TeacherSpec
from clipkd.spec.cells import Cell, cacheable
from clipkd.spec.strength import planned_strength


def checked(cell: Cell, data: Path = Path("data")) -> Cell:
    """Return the cell, its teacher live where nothing stored is exact; refuse what can't work.

    `data`: the folder of packed datasets, which say how many images they have.
    """
    method, cell = cell.method, with_strength(cell, data)
    refuse_teacher(cell)
    refuse_without_labels(cell)
    refuse_unknown_classes(cell)
    refuse_other_labels(cell)
    refuse_untrained_classifier(cell)
    if has_imported(cell):
        refuse_unknown_views(cell)
        return cell
    if cell.teacher_source in {"live", "lazy"} and not method.is_per_image:
        source = cell.teacher_source
        why = f"it reads {method.signal}, which are made once" if method.signal != "nothing" else "it has no teacher"
        raise InputError(f"train type '{method.name}' can't use a {source} teacher: {why}")
    # A recipe that chooses its strength trains on stored views at any strength, on random crops too.
    endless = cell.draws_views or (cell.strength is not None and cell.dataset_spec.crops)
    if cell.teacher_source == "cached" and method.is_per_image and endless:
        cell = replace(cell, teacher_source="replayed")
    refuse_unstored(cell)
    refuse_unstored_views(cell)
    if cell.teacher_source == "replayed":
        if not (cell.dataset_spec.crops or cell.draws_views):
            raise InputError(
                f"dataset '{cell.dataset}' has few views in recipe '{cell.recipe_spec.name}', and all are stored: use "
                "teacher_source 'cached'"
            )
        return cell
    if cell.is_cost_run and cell.dataset_spec.image_size is None:
        raise InputError(
            f"dataset '{cell.dataset}' has images of many sizes and no random crops: every view is stored, and no "
            f"{cell.teacher_source} teacher is needed; use teacher_source 'cached'"
        )
    if cell.teacher_source == "lazy" and not cacheable(cell):
        raise InputError(
            f"recipe '{cell.recipe_spec.name}' never shows a view of dataset '{cell.dataset}' twice: teacher_source "
            "'lazy' would keep nothing"
        )
    if not cacheable(cell) and len(cell.by_teacher) > 1:
        raise InputError(
            f"recipe '{cell.recipe_spec.name}' never shows a view of dataset '{cell.dataset}' twice, and several "
            f"teachers ('{cell.teacher}') are not run live: for '{method.name}' use teacher_source 'replayed'"
        )
    return cell if cacheable(cell) else replace(cell, teacher_source="live")


def with_strength(cell: Cell, data: Path) -> Cell:
    """Return the cell with the strength that its recipe chooses, where what is stored depends on it."""
    if cell.recipe_spec.augment != "auto" or not (cell.method.is_per_image or cell.teacher_source == "replayed"):
        return cell
    where = (cell.student_spec, cell.dataset_spec, cell.source, cell.epochs)
    return replace(cell, strength=planned_strength(cell.recipe_spec, *where, data))


def has_imported(cell: Cell) -> bool:
    """Return whether one of the cell's teachers is only embeddings that somebody else computed."""
    return any(spec.is_imported for spec in cell.teacher_specs)


def refuse_unknown_views(cell: Cell) -> None:
    """Raise InputError where a run asks for views that imported embeddings do not have."""
    if cell.teacher_source != "cached":
        raise InputError(
            f"teacher '{cell.teacher}' is embeddings without a model: it can't be run for teacher_source "
            f"'{cell.teacher_source}'; use 'cached'"
        )
    if cell.method.is_per_image and cell.recipe_spec.augment == "full":
        raise InputError(
            f"teacher '{cell.teacher}': recipe '{cell.recipe_spec.name}' mixes images, and imported embeddings are of "
            f"one each; for '{cell.train_type}' take a weaker one, as recipe 'modern-randaugment' or 'modern-flip'"
        )
    is_endless = cell.method.is_per_image and (cell.dataset_spec.crops or cell.draws_views)
    if is_endless and not all(spec.is_imported for spec in cell.teacher_specs):
        raise InputError(
            f"teachers '{cell.teacher}': dataset '{cell.dataset}' is shown in random views, and imported embeddings "
            f"are of whole images; for '{cell.train_type}' use each alone"
        )


def refuse_unstored(cell: Cell) -> None:
    """Raise InputError where a train type looks up another image's targets, and none are stored."""
    method, stored = cell.method, "cached" if cacheable(cell) else "replayed"
    if method.target_of != "image" and cell.teacher_source not in {stored, "replayed"}:
        raise InputError(
            f"train type '{method.name}' looks up the {method.signal} of other images, so they must be stored: on "
            f"dataset '{cell.dataset}' use teacher_source '{stored}'"
        )


def refuse_without_labels(cell: Cell) -> None:
    """Raise InputError where a run without any label could not learn."""
    method, recipe = cell.method, cell.recipe_spec
    if cell.has_labels:
        return
    if method.signal != "embeddings" or method.target_of == "another image of the class":
        known = map(methods.get, methods.names())
        able = [one.name for one in known if one.signal == "embeddings" and not one.control_of]
        raise InputError(
            f"train type '{method.name}' needs classes, and with labels: none there are none: use one that compares "
            f"embeddings of images ({', '.join(able)})"
        )
    if recipe.projection == "teacher" or recipe.same_class_targets:
        switch = "projection" if recipe.projection == "teacher" else "same_class_targets"
        why = {
            "projection": "with it on the teacher's side, one vector for all images would be a perfect answer; use a "
            "recipe with projection 'student', as 'corrected'",
            "same_class_targets": "it needs the classes of images",
        }
        raise InputError(f"recipe '{recipe.name}': {switch} can't be used with labels: none: {why[switch]}")


def refuse_unknown_classes(cell: Cell) -> None:
    """Raise InputError where a control exchanges targets within classes, and few images' classes are known."""
    method = cell.method
    if cell.few_labels and method.target_of == "another image of the class":
        raise InputError(
            f"train type '{method.name}' exchanges the {method.signal} of images of one class, and with labels: "
            f"{cell.labels} the class of most images is not known: use '{method.control_of}-permuted'"
        )


def needs_all_labels(cell: Cell) -> InputError:
    """Return the error about a control within classes on a dataset of which some images have no label."""
    return InputError(
        f"train type '{cell.train_type}': some images of {cell.dataset_spec.title} have no label, so targets can't be "
        f"exchanged within classes: use '{cell.method.control_of}-permuted'"
    )


def refuse_other_labels(cell: Cell) -> None:
    """Raise InputError where a run that teaches by few labels saw others than its student may see."""
    few = cell.few_labels
    for spec in cell.teacher_specs if few else ():
        seen = spec.few_labels if isinstance(spec, StudentTeacher) else None
        if few and seen and seen[0] == cell.dataset and (seen[2] != few.seed or seen[1] > few.count):
            raise InputError(
                f"teacher '{spec.name}' was trained with {seen[1]} labels of seed {seen[2]}, and its student may see "
                f"{few.count} of seed {few.seed}: it has seen labels that this student must not see. Take for each "
                f"student the run of its own seed: {of_each_seed(spec, min(seen[1], few.count))}"
            )


def of_each_seed(teacher: TeacherSpec, count: int) -> str:
    """Return the name of a run of few labels as a teacher of students of all seeds that see `count` labels."""
    run = (
        isinstance(teacher, StudentTeacher) and teacher.run
    ) or "RECIPE/DATASET/STUDENT/TEACHER/TRAIN_TYPE-labels/seed"
    return f"run:{re.sub(r'(-[0-9]+)?-labels/seed[0-9]*$', f'-{count}-labels/seed*', run)}"


def refuse_untrained_classifier(cell: Cell) -> None:
    """Raise InputError where neither labels nor the teacher would train the student's classifier."""
    if not cell.recipe_spec.classification_weight and cell.method.signal in {"prototypes", "embeddings"}:
        raise InputError(
            f"recipe '{cell.recipe_spec.name}': with classification_weight 0, '{cell.train_type}' would leave "
            "the student's classifier untrained: it is for train types that teach class scores, as 'vanilla'"
        )


def refuse_unstored_views(cell: Cell) -> None:
    """Raise InputError where a train type asks the teacher about views that are in no store."""
    recipe, method = cell.recipe_spec, cell.method
    if not method.is_per_image:
        return
    stored = "cached" if cacheable(cell) else "replayed"
    if recipe.standardised and method.signal == "embeddings" and cell.teacher_source != stored:
        raise InputError(
            f"recipe '{recipe.name}' standardises the teacher's stored embeddings, and teacher_source "
            f"'{cell.teacher_source}' has none on dataset '{cell.dataset}': use teacher_source '{stored}'"
        )


def refuse_teacher(cell: Cell) -> None:
    """Raise InputError where the cell's teachers can't give what its train type asks for."""
    for one in cell.by_teacher:
        spec = one.teacher_spec
        if spec and spec.is_per_class and cell.method.signal != "prototypes":
            what = "reads class names, not images" if spec.reads_names else "has one vector for each class"
            raise InputError(
                f"teacher '{one.teacher}' {what}: it gives prototypes, for embed-KD and its controls, not the "
                f"{cell.method.signal} that '{cell.method.name}' asks for"
            )
    spec = cell.teacher_spec
    if isinstance(spec, SeveralTeachers) and spec.standardise and cell.method.signal == "scores":
        raise InputError(
            f"teachers '{cell.teacher}': '{cell.method.name}' uses class scores, which do not depend on the scale of "
            "embeddings; leave out standardise for it, in a block of its own"
        )
    if len(cell.by_teacher) > 1 and cell.teacher_source in {"live", "lazy"}:
        raise InputError(
            f"several teachers ('{cell.teacher}') come from stored embeddings: teacher_source "
            f"'{cell.teacher_source}' is for one"
        )
