"""Arms: the runs of one train type at one place of the grid; what two of them differ in, and by how much."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from clipkd.tables.grouping import AXES, axes_of, groups, nested_order
from clipkd.tables.results import Results
from clipkd.tables.summary import Difference, paired_by_image, paired_difference

POINTS = 100.0
"""Differences are shown in percentage points."""


@dataclass(frozen=True)
class Arm:
    """The runs of one train type at one place of the grid, over seeds."""

    recipe: str
    dataset: str
    student: str
    teacher: str
    train_type: str
    epoch: str
    """The one compared: `selected` (by validation) or `last`."""
    points: dict[int, float]
    """Seed -> test top-1 in percent of the finished runs."""
    is_incomplete: bool
    is_replayed: bool = False
    """Whether the students saw stored views only."""
    has_one_view: bool = False
    """Whether one vector of each image was the target of all of its views."""
    epochs: int | None = None
    setting: str = ""
    """The recipe's own name, where `recipe` is a sweep: the one that validation chose."""
    labels: str = "all"
    """How many labels the students see."""
    is_partly_labelled: bool = False
    """Whether some of their images have no label: by `labels`, or in the dataset itself."""
    correct: dict[int, np.ndarray] = field(default_factory=dict)
    """Seed -> which test images are classified correctly, bool [N], of the runs that have kept it."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.recipe, self.dataset, self.student, self.labels


def arms(results: Results) -> list[Arm]:
    """Return the arms of the runs that comparisons use, in the config's order; those of a place next to each other."""
    runs = results.comparable
    runs = nested_order(runs[runs.is_headline], "recipe", "dataset", "student", "labels").assign(
        points=lambda f: f.top1 * POINTS
    )
    by_axes = {(*axes_of(cell), cell.seed): run for cell, run in results.runs.items() if not cell.is_cost_run}
    found = []
    for axes, here in groups(runs, *AXES):
        finished, epoch = here.dropna(subset="points"), here.epoch.iloc[0]
        setting = here.setting.iloc[0]
        correct = {seed: by_axes[setting, *axes[1:], seed].correct(epoch) for seed in finished.seed}
        found.append(
            Arm(
                **dict(zip(AXES, axes, strict=True)),
                epoch=epoch,
                points=dict(zip(finished.seed, finished.points, strict=True)),
                is_incomplete=bool((here.state != "finished").any()),
                is_replayed=bool((here.teacher_source == "replayed").any()),
                has_one_view=bool(here.has_one_view.any()),
                is_partly_labelled=bool((here.labels != "all").any() or here.labelled_images.notna().any()),
                epochs=int(here.epochs.iloc[0]),
                setting=setting,
                correct={seed: one for seed, one in correct.items() if one is not None},
            )
        )
    return found


def unlike(first: Arm, second: Arm) -> str:
    """Return what two arms differ in beside the train type, or beside the recipe; "" where in nothing."""
    names = [arm.train_type for arm in (first, second)]
    names = [arm.recipe for arm in (first, second)] if names[0] == names[1] else names
    views = {True: "stored views", False: "new views in each epoch"}
    found = []
    if first.is_replayed != second.is_replayed:
        sides = [f"{name} saw {views[arm.is_replayed]}" for name, arm in zip(names, (first, second), strict=True)]
        found.append(", ".join(sides))
    if first.has_one_view != second.has_one_view:
        one = names[0] if first.has_one_view else names[1]
        found.append(f"{one} was taught one vector of each image for all of its views")
    if first.recipe == second.recipe and first.setting != second.setting:
        chosen = [arm.setting.removeprefix(f"{arm.recipe}.") for arm in (first, second)]
        found.append(f"chosen settings {' and '.join(chosen)}")
    if first.epochs != second.epochs:
        found.append(f"{first.epochs} and {second.epochs} epochs")
    return "; ".join(found)


def difference(first: Arm, second: Arm) -> Difference | None:
    """Return the difference of two arms in points, over seeds and images where both have kept their images."""
    seeds = first.points.keys() & second.points.keys()
    if not first.correct.keys() & second.correct.keys() >= seeds:
        return paired_difference(first.points, second.points)
    found = paired_by_image(first.correct, second.correct)
    return found and found.times(POINTS)
