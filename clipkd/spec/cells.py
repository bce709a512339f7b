"""Cells of the grid: one cell is one student to train. No torch here: the Snakefile reads this."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from clipkd.core.errors import InputError
from clipkd.core.fingerprint import fingerprint
from clipkd.plugins import datasets, methods, recipes, students, teachers
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.methods import Method
from clipkd.plugins.recipes import Recipe, Strength
from clipkd.plugins.students import NetworkSpec
from clipkd.plugins.teachers import SeveralTeachers, StudentTeacher, TeacherSpec, TrainedCNN
from clipkd.spec.few_labels import FewLabels
from clipkd.spec.settings import Block, Config, Hyperparameters, TeacherSource
from clipkd.spec.strength import planned_strength

NO_TEACHER = teachers.NO_TEACHER
"""Name of the teacher, in paths and tables, of a method without one."""


@dataclass(frozen=True)
class Cell:
    """One student to train, by names."""

    recipe: str
    """A key; of a recipe without a file of its own, what the command line takes."""
    dataset: str
    student: str
    teacher: str
    train_type: str
    seed: int
    teacher_source: TeacherSource = "cached"
    epochs: int = 200
    source: str | None = None
    """Where the dataset's data are, if not at the official place."""
    labels: int | Literal["all", "none"] = "all"
    """Labelled images whose labels the run may see, those for validation included."""
    strength: Strength | None = None
    """What `augment: auto` is, where stored views depend on it; None: the recipe's own, or chosen when a run begins."""

    @property
    def few_labels(self) -> FewLabels | None:
        """Whose labels may be seen; None: all, or none."""
        return FewLabels(self.labels, self.seed) if isinstance(self.labels, int) else None

    @property
    def has_labels(self) -> bool:
        """Whether any label is seen; without, the student has no classifier, and no accuracy."""
        return self.labels != "none"

    @property
    def selection(self) -> Literal["validation", "test", "none"]:
        """Which split chooses the epoch: the recipe's; `none`, the last epoch, without labels."""
        return self.recipe_spec.selection if self.has_labels else "none"

    @property
    def dataset_spec(self) -> DatasetSpec:
        return datasets.get(self.dataset, self.source)

    @property
    def student_spec(self) -> NetworkSpec:
        return students.get(self.student)

    @property
    def teacher_of_seed(self) -> str:
        """The teacher's name, with the run of the cell's own seed where each seed has one."""
        return teachers.of_seed(self.teacher, self.seed)

    @property
    def teacher_spec(self) -> TeacherSpec | None:
        return None if self.teacher == NO_TEACHER else teachers.get(self.teacher_of_seed)

    @property
    def differs_by_seed(self) -> bool:
        """Whether what its teacher says depends on its seed."""
        return self.few_labels is not None or self.teacher_of_seed != self.teacher

    @property
    def by_teacher(self) -> tuple[Cell, ...]:
        """One cell for each of its teachers: itself, unless it has several."""
        return tuple(replace(self, teacher=name) for name in teachers.split(self.teacher))

    @property
    def method(self) -> Method:
        return methods.get(self.train_type)

    @property
    def recipe_spec(self) -> Recipe:
        return recipes.of_strength(self.recipe, self.strength)

    @property
    def fixed(self) -> Cell:
        """The cell with its strength named by the recipe, as what is stored for it: the epochs don't matter there."""
        if self.strength is None:
            return self
        return replace(self, recipe=recipes.fixed(self.recipe, self.strength), strength=None)

    def hyperparameters(self, config: Config) -> Hyperparameters:
        """Return the numbers of the run: the recipe's own, and those of the config."""
        numbers = config.hyperparameters(self.epochs)
        return numbers.model_copy(update=self.recipe_spec.hyperparameters() | {"epochs": self.epochs})

    @property
    def draws_views(self) -> bool:
        """True where the recipe draws views at the student's size: endlessly many, of which K can be stored."""
        return self.recipe_spec.draws_views(self.dataset_spec.crops)

    @property
    def is_cost_run(self) -> bool:
        """True where the run only measures what a teacher in the loop costs: no row of accuracy tables."""
        return self.teacher_source in {"live", "lazy"} and cacheable(self)

    @property
    def has_one_view(self) -> bool:
        """True where the one vector of an image, which somebody else computed, is the target of all of its views.

        An approximation: the teacher itself was not shown the mirrored or cropped image.
        """
        spec, is_endless = self.dataset_spec, self.dataset_spec.crops or self.draws_views
        if not self.method.is_per_image or not (spec.mirrors or is_endless):
            return False
        members = [one.teacher_spec for one in self.by_teacher]
        return any(one and one.is_imported and (is_endless or not one.has_mirrored) for one in members)

    @property
    def teacher_key(self) -> str:
        """The teacher's name in folders, and in words to people."""
        return self.teacher if self.teacher == NO_TEACHER else teachers.get(self.teacher).name

    @property
    def folder(self) -> str:
        """The run's folder below results/runs, `/` between the axes."""
        # The mathematics of these differ from, or the cost is not that of, the run with the plain name.
        is_marked = self.is_cost_run or self.teacher_source == "replayed"
        train_type = f"{self.train_type}-{self.teacher_source}" if is_marked else self.train_type
        train_type += "-one-view" if self.has_one_view else ""
        train_type += {"all": "", "none": "-no-labels"}.get(str(self.labels), f"-{self.labels}-labels")
        place = f"{self.recipe_spec.name}/{self.dataset}/{self.student_spec.name}"
        return f"{place}/{self.teacher_key}/{train_type}/seed{self.seed}"


def cacheable(cell: Cell) -> bool:
    """Return whether the cell's teacher signal can be stored with the same mathematics."""
    return cell.method.signal in {"nothing", "prototypes"} or not (cell.dataset_spec.crops or cell.draws_views)


def expand(config: Config) -> tuple[list[Cell], list[str]]:
    """Return the cells of a checked config, each once, and what was left out and why.

    A method without a teacher makes one cell, not one per teacher. Where no stored signal is exact
    the teacher runs live.

    Raises:
        InputError: an unknown name, an impossible combination, or two blocks that ask for the same
            run with different epochs.
    """
    cells: dict[str, tuple[Cell, str]] = {}
    left_out: dict[str, None] = {}
    for number, block in enumerate(config.grid):
        where = f"grid[{number}] ('{block.name}')"
        for cell in block_cells(block, config, left_out):
            earlier, other = cells.setdefault(cell.folder, (cell, where))
            if earlier != cell:
                axes = {"recipes": "recipe", "students": "student", "teachers": "teacher", "epochs": "epochs"}
                pairs = {name: (getattr(cell, axis), getattr(earlier, axis)) for name, axis in axes.items()}
                asked = "; ".join(f"{one} and {two} {name}" for name, (one, two) in pairs.items() if one != two)
                advice = "; give each a name of its own under `teachers`" if cell.teacher != earlier.teacher else ""
                raise InputError(f"{where} and {other} both ask for the run {cell.folder}, with {asked}{advice}")
    found = [cell for cell, _ in cells.values()]
    refuse_mixture(found)
    return found, list(left_out)


def refuse_mixture(cells: list[Cell]) -> None:
    """Raise InputError where a table's row would hold runs on stored views and runs on ever new ones."""
    rows = {cell: replace(cell, teacher_source="cached", strength=None) for cell in cells}
    fresh = {row for cell, row in rows.items() if cell.teacher_source != "replayed"}
    for cell, row in rows.items():
        if cell.teacher_source == "replayed" and row in fresh:
            raise InputError(
                f"the grid asks for {cell.folder} and for the same run on views that are new in every epoch: they "
                "differ in their mathematics but would share one table row; split them into two grids"
            )


def block_cells(block: Block, config: Config, left_out: dict[str, None]) -> Iterator[Cell]:
    """Yield the cells of one block of the grid."""
    usable = [name for name in block.datasets if usable_dataset(name, config, left_out)]
    for name in usable:
        spec = datasets.get(name, config.source(name))
        if set(block.labels) != {"none"} and spec.known_classes(config.source(name)) == []:
            raise InputError(
                f"block '{block.name}': no image of dataset '{spec.name}' has a label, in folders of classes or a "
                "labels.csv: write labels: [none] to train without (docs/few-labels.md)"
            )
    named = [recipe for name in block.recipes for recipe in config.named_recipes(name)]
    axes = (named, usable, block.students, block.labels, block.train_types, block.seeds)
    for recipe, dataset, student, labels, train_type, seed in itertools.product(*axes):
        source = config.source(dataset)
        spec, method = datasets.get(dataset, source), methods.get(train_type)
        cell = Cell(
            recipe=recipes.spelled(recipe),
            dataset=spec.name,
            student=students.spelled(student),
            teacher=NO_TEACHER,
            train_type=method.name,
            seed=seed,
            teacher_source=block.teacher_source,
            epochs=epochs_of(block, recipes.get(recipe), config),
            source=source,
            labels=labels,
        )
        if method.signal == "nothing":
            yield checked(cell)
            continue
        for name in block.teachers:
            teacher = trained_on(config.resolved(name), spec.name, config.source)
            reason = teachers.get(teacher).available
            if reason:
                left_out[reason] = None
            else:
                yield checked(replace(cell, teacher=teacher_name(teacher)))


def epochs_of(block: Block | None, recipe: Recipe, config: Config) -> int:
    """Return how many epochs a run has: the block's or the recipe's, else those under `training`."""
    asked = block.epochs if block else None
    if asked and recipe.epochs:
        raise InputError(
            f"a block of the grid sets epochs to {asked}, its recipe '{recipe.name}' to {recipe.epochs}: leave out one"
        )
    return asked or recipe.epochs or config.training.epochs


def trained_on(name: str, dataset: str, source_of: Callable[[str], str | None]) -> str:
    """Return a teacher's name with the dataset that it is trained on: that of the cell, where it names no other.

    Args:
        name: the teacher, or several, as the command line takes it.
        dataset: the name of the cell's dataset.
        source_of: says where a dataset's data are; None: at the official place.
    """
    members = []
    for member in teachers.split(name):
        spec = teachers.get(member)
        if isinstance(spec, TrainedCNN) and spec.name not in teachers.names():
            on = spec.dataset or dataset
            source = source_of(on)
            data = fingerprint(datasets.get(on, source).identity()) if source else spec.data
            members.append(teachers.on_dataset(member, on, data))
        else:
            members.append(member)
    return "+".join(members) + name.removeprefix(teachers.options_of(name)[0])


def teacher_name(name: str) -> str:
    """Return a teacher's name in cells: its key, or, without a file of its own, the name it was given by."""
    key = teachers.get(name).name
    return key if key in teachers.names() else teachers.spelled(name)


def usable_dataset(name: str, config: Config, left_out: dict[str, None]) -> bool:
    """Return whether the dataset's data can be had; note in `left_out` why not."""
    spec = datasets.get(name, config.source(name))
    if spec.needs_source and spec.name not in config.sources:
        where = f"sources: {{{spec.name}: FOLDER}}"
        left_out[f"dataset '{spec.name}' is never downloaded: give its folder as {where}"] = None
        return False
    return True


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
    return cell.teacher != NO_TEACHER and any(one.is_imported for one in teachers.get(cell.teacher).members)


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
    every = [one.teacher_spec for one in cell.by_teacher]
    is_endless = cell.method.is_per_image and (cell.dataset_spec.crops or cell.draws_views)
    if is_endless and not all(one and one.is_imported for one in every):
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
            f"{cell.labels} the class of most images is not known: use '{method.control_of}-permuted', or labels: all"
        )


def refuse_other_labels(cell: Cell) -> None:
    """Raise InputError where a run that teaches by few labels saw others than its student may see."""
    few = cell.few_labels
    for spec in (one.teacher_spec for one in cell.by_teacher if few):
        seen = spec.few_labels if isinstance(spec, StudentTeacher) else None
        if few and spec and seen and seen[0] == cell.dataset and (seen[2] != few.seed or seen[1] > few.count):
            raise InputError(
                f"teacher '{spec.name}' was trained with {seen[1]} labels of seed {seen[2]}, and its student may see "
                f"{few.count} of seed {few.seed}: what it says would tell of the others. Name it as "
                f"run:.../{cell.train_type}-{few.count}-labels/seed*, for each student the run of its own seed"
            )


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
    for one in cell.by_teacher if cell.teacher != NO_TEACHER else ():
        if one.teacher_spec and one.teacher_spec.is_per_class and cell.method.signal != "prototypes":
            what = "reads class names, not images" if one.teacher_spec.reads_names else "has one vector for each class"
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
