"""Cells of the grid: one cell is one student to train. No torch here: the Snakefile reads this."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from clipkd.plugins import datasets, methods, recipes, students, teachers
from clipkd.plugins.datasets import DatasetSpec
from clipkd.plugins.methods import Method
from clipkd.plugins.recipes import Recipe, Strength
from clipkd.plugins.students import NetworkSpec
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec.few_labels import FewLabels
from clipkd.spec.selection import Split
from clipkd.spec.settings import Config, Hyperparameters, TeacherSource

NO_TEACHER = teachers.NO_TEACHER
"""Name of the teacher, in paths and tables, of a method without one."""
ONE_VIEW = "-one-view"
"""In the folder of a run to whom one vector of each image stands for all its views."""


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
    def selection(self) -> Split:
        """Which split measures each epoch, and chooses one (if it has enough images); `none` without labels."""
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
    def teacher_specs(self) -> tuple[TeacherSpec, ...]:
        """Its teachers, one by one."""
        spec = self.teacher_spec
        return spec.members if spec else ()

    @property
    def differs_by_seed(self) -> bool:
        """Whether what its teacher says depends on its seed."""
        return self.few_labels is not None or self.teacher_of_seed != self.teacher

    @property
    def by_teacher(self) -> tuple[Cell, ...]:
        """One cell for each of its teachers: itself, unless it has several."""
        return tuple(replace(self, teacher=name) for name in teachers.split(self.teacher))

    @property
    def kind(self) -> Cell:
        """The cell that stands for all that read the same artefacts, whatever their seed."""
        return self if self.differs_by_seed else replace(self, seed=0)

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
        numbers = config.hyperparameters(self.epochs).of_recipe(self.recipe_spec)
        return numbers.model_copy(update={"epochs": self.epochs})

    @property
    def draws_views(self) -> bool:
        """True where the recipe draws views at the student's size: endlessly many, of which K can be stored."""
        return self.recipe_spec.draws_views(self.dataset_spec.crops)

    @property
    def is_cost_run(self) -> bool:
        """True where the run only measures what a teacher in the loop costs: no row of accuracy tables."""
        return self.teacher_source in {"live", "lazy"} and cacheable(self)

    @property
    def shown_source(self) -> str:
        """Its teacher's source for people: `none` where it has neither a teacher nor a teacher's views."""
        is_alone = self.teacher == NO_TEACHER and self.teacher_source != "replayed"
        return "none" if is_alone else self.teacher_source

    @property
    def has_one_view(self) -> bool:
        """True where the one vector of an image, which somebody else computed, is the target of all of its views.

        An approximation: the teacher itself was not shown the mirrored or cropped image.
        """
        spec, is_endless = self.dataset_spec, self.dataset_spec.crops or self.draws_views
        if not self.method.is_per_image or not (spec.mirrors or is_endless):
            return False
        return any(one.is_imported and (is_endless or not one.has_mirrored) for one in self.teacher_specs)

    @property
    def teacher_key(self) -> str:
        """The teacher's name in folders, and in words to people."""
        return self.teacher if self.teacher == NO_TEACHER else teachers.get(self.teacher).name

    @cached_property
    def folder(self) -> str:
        """The run's folder below results/runs, `/` between the axes."""
        # The mathematics of these differ from, or the cost is not that of, the run with the plain name.
        is_marked = self.is_cost_run or self.teacher_source == "replayed"
        train_type = f"{self.train_type}-{self.teacher_source}" if is_marked else self.train_type
        train_type += ONE_VIEW if self.has_one_view else ""
        train_type += {"all": "", "none": "-no-labels"}.get(str(self.labels), f"-{self.labels}-labels")
        place = f"{self.recipe_spec.name}/{self.dataset}/{self.student_spec.name}"
        return f"{place}/{self.teacher_key}/{train_type}/seed{self.seed}"


def cacheable(cell: Cell) -> bool:
    """Return whether the cell's teacher signal can be stored with the same mathematics."""
    return cell.method.signal in {"nothing", "prototypes"} or not (cell.dataset_spec.crops or cell.draws_views)
