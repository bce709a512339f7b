"""Rows G05 to G07 and G09: what the report concludes where the truth is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from clipkd.report import overview
from clipkd.spec.config import load
from clipkd.spec.grid import expand
from clipkd.tables import comparisons
from clipkd.tables.arms import Arm
from clipkd.tables.comparisons import compare
from clipkd.tables.summary import Difference, paired_difference
from clipkd.tables.terms import BASELINE, headline
from tests.faults.checks import Mutant, fault, replaced

CONFIGS = Path(__file__).parents[2] / "config"
GRIDS = 60
MOST = int(binom.ppf(0.999, GRIDS, 0.05))
"""Of so many simulated grids at most MOST are wrong, but for one time in a thousand, where 5 % of all grids are."""
IMAGES = {"digits": 355, "cifar10": 10_000, "cifar100": 10_000, "imagenet": 50_000}


def arms_of(*names: str) -> list[Arm]:
    """Return the arms of a config's grid, without numbers."""
    config = load([CONFIGS / name for name in names], {"sources": {"imagenet": str(CONFIGS)}})
    cells = [cell for cell in expand(config)[0] if not cell.is_cost_run]
    cells.sort(key=lambda cell: (cell.recipe, cell.dataset, cell.student))
    found: dict[tuple[str, ...], Arm] = {}
    for cell in cells:
        axes = (cell.recipe, cell.dataset, cell.student, cell.teacher, cell.train_type)
        found.setdefault(axes, Arm(*axes, headline(cell.recipe), {}, False)).points[cell.seed] = 0.0
    return list(found.values())


def accuracies(arm: Arm, generator: np.random.Generator) -> dict[int, float]:
    """Return a test accuracy for each seed, in percent: a count of images, of one mean for every train type."""
    images = IMAGES[arm.dataset]
    share = np.clip(generator.normal(0.7, 0.015, len(arm.points)), 0, 1)
    return dict(zip(arm.points, np.round(share * images) / images * 100, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("names", [("config.yaml",), ("config.yaml", "demo.yaml")], ids=["paper", "demo"])
@fault("G05", **{"the-correction": replaced("clipkd.tables.summary.holm", list)})
def test_a_grid_with_nothing_to_find_says_so(names: tuple[str, ...]) -> None:
    arms, generator = arms_of(*names), np.random.default_rng(0)
    wrong = 0
    for _ in range(GRIDS):
        found, _ = compare([replace(arm, points=accuracies(arm, generator)) for arm in arms])
        wrong += any(answer.verdict != "Not shown here." for answer in overview.answers(found))
    assert wrong <= MOST


def students(generator: np.random.Generator) -> dict[int, np.ndarray]:
    """Return which of 100 test images the students of five seeds classify correctly.

    An image is harder or easier for a train type, for whatever seed; over all images that could be in the test set, no
    train type is better.
    """
    ease = generator.normal(0.5, 1, 100) + generator.normal(0, 1, 100)
    return {seed: ease + generator.normal(0, 0.3, 100) > 0 for seed in range(5)}


def by_seed_alone(first: dict[int, np.ndarray], second: dict[int, np.ndarray]) -> Difference | None:
    """The mutant: intervals that take the test set as given."""
    return paired_difference(*({seed: one.mean() for seed, one in side.items()} for side in (first, second)))


@fault("G09", **{"the-images": replaced("clipkd.tables.arms.paired_by_image", by_seed_alone)})
def test_a_lucky_test_set_is_no_difference() -> None:
    place, generator = ("corrected", "digits", "tiny-32"), np.random.default_rng(0)
    wrong = 0
    for _ in range(GRIDS):
        arms = []
        for name in ("supervised", "vanilla", "teacher-KD", "embed-KD"):
            correct = students(generator)
            points = {seed: 100 * one.mean() for seed, one in correct.items()}
            teacher = "none" if name == "supervised" else "digits-vit-s"
            arms.append(Arm(*place, teacher, name, "selected", points, False, correct=correct))
        answers = overview.answers(compare(arms)[0])
        wrong += any(answer.verdict not in {"Not shown here.", "Not tested here."} for answer in answers)
    assert wrong <= MOST


def arm(train_type: str, *points: float) -> Arm:
    """Return an arm of one place, its accuracy in percent by seed."""
    teacher = "none" if train_type == "supervised" else "digits-vit-s"
    return Arm("corrected", "digits", "tiny-32", teacher, train_type, "selected", dict(enumerate(points)), False)


def content_of(*arms: Arm) -> str:
    """Return the report's verdict on the teacher's content."""
    return overview.answers(compare(list(arms))[0])[0].verdict


SUPERVISED = arm("supervised", 80.0, 80.3, 79.8, 80.1, 79.9)
EMBED = arm("embed-KD", 84.1, 84.0, 84.3, 83.9, 84.2)
HARMED = arm("embed-KD-permuted", 74.2, 73.9, 74.0, 74.1, 74.3)
LEVEL = arm("embed-KD-permuted", 84.2, 84.1, 84.2, 83.9, 84.1)
RANDOM = arm("embed-KD-random", 79.0, 79.1, 78.8, 79.2, 79.0)


def only(which: int) -> Mutant:
    """Return the mutant that asks for one of the two conditions for content that matters."""
    kept = comparisons.together
    return replaced("clipkd.tables.comparisons.together", lambda each: kept([each[which]]))


def controls_are_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = comparisons.pairs
    found = "clipkd.tables.comparisons.pairs"
    monkeypatch.setattr(
        found,
        lambda names: [
            ("help", *rest) if rest[1] == BASELINE else (question, *rest) for question, *rest in kept(names)
        ],
    )


@fault("G06", **{"no-teacher": only(1), "the-control": only(0)})
def test_content_matters_only_beside_the_control_and_no_teacher() -> None:
    assert content_of(SUPERVISED, EMBED, RANDOM, HARMED) == "Yes."
    assert content_of(SUPERVISED, EMBED, RANDOM, LEVEL) == "Not shown here."
    # A control that does harm is not a teacher that helps.
    no_better = arm("embed-KD", 80.2, 80.1, 79.9, 80.0, 79.9)
    assert content_of(SUPERVISED, no_better, RANDOM, HARMED) == "Not shown here."
    assert content_of(SUPERVISED, EMBED, RANDOM) == "Not tested here."


@fault("G07", **{"the-list": controls_are_methods})
def test_a_control_is_not_a_teacher() -> None:
    """A control that does harm says nothing about training with a teacher."""
    found, _ = compare([SUPERVISED, EMBED, HARMED, RANDOM])
    answers = {answer.question: answer.verdict for answer in overview.answers(found)}
    assert answers["Does training with a teacher help at all?"] == "Yes."
