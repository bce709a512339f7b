"""The crossover of augmentation: differences paired by seed, and results that survive a second call."""

from __future__ import annotations

import math

import pytest

from benchmarks.crossover import FIELDS, differences, merged, read, text


def row(student: str, strength: str, seed: int, top1: float, seen: int = 1000) -> dict:
    sizes = {"tiny-32": 100, "base-32": 9000}
    return dict(zip(FIELDS, ("digits", student, sizes[student], 10, seen, strength, seed, top1), strict=True))


def test_differences_are_paired_by_seed_and_students_sorted_by_size():
    found = [
        row("base-32", "flip", 0, 0.70), row("base-32", "crop", 0, 0.75),
        row("tiny-32", "flip", 0, 0.50), row("tiny-32", "crop", 0, 0.51),
        row("tiny-32", "flip", 1, 0.60), row("tiny-32", "crop", 1, 0.63),
        row("tiny-32", "crop", 2, 0.99),  # its partner has not been trained yet
    ]  # fmt: skip
    points = differences(found)
    assert list(points) == [("crop", "tiny-32"), ("crop", "base-32")]
    ((seen, mean, error),) = points["crop", "tiny-32"]
    assert (seen, mean) == (1000, pytest.approx(2.0))
    assert error == pytest.approx(math.sqrt(2) / math.sqrt(2)), "deviation of 1 and 3 over the root of two seeds"
    assert points["crop", "base-32"][0][1] == pytest.approx(5.0)
    assert math.isnan(points["crop", "base-32"][0][2])


def test_results_are_kept_and_a_run_has_one_row(tmp_path):
    before = [row("tiny-32", "flip", 0, 0.5), row("tiny-32", "flip", 1, 0.6)]
    (tmp_path / "crossover.csv").write_text(text(before))
    again = merged(read(tmp_path / "crossover.csv"), [row("tiny-32", "flip", 1, 0.61), row("tiny-32", "crop", 0, 0.7)])
    assert [(one["strength"], one["seed"], one["top1"]) for one in again] == [
        ("crop", 0, 0.7),
        ("flip", 0, 0.5),
        ("flip", 1, 0.61),
    ]
