"""`clipkd compare`: what differs, what was reached, and the curves."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkd.runs.finished import FinishedRun
from clipkd.tables.compare import label, read, settings, table
from tests.use.conftest import CELL, trained


@pytest.fixture(scope="module")
def other(digits_folder, tmp_path_factory) -> Path:
    """A run that differs in recipe, seed and epochs."""
    cell = replace(CELL, recipe="reference", seed=3, epochs=2)
    return trained(cell, digits_folder, tmp_path_factory.mktemp("other") / "seed3")


def test_what_differs_and_what_does_not(run_folder, other) -> None:
    shown = [read(run_folder), read(other)]
    differ, equal = settings(shown)
    assert differ == {"recipe": ["corrected", "reference"], "seed": [0, 3], "epochs": [8, 2]}
    assert equal["dataset"] == "digits"
    assert "teacher_source" not in equal  # no teacher, no source
    assert label(shown, 1) == "reference, seed 3, epochs 2"
    assert equal["labels"] == "all"
    assert settings([shown[0], shown[0]])[0] == {}


def test_numbers_of_labels_differ(run_folder):
    first, second = read(run_folder), read(run_folder)
    second.identity["few_labels"] = {"labels": 20, "seed": 0, "protocol": 1}
    assert settings([first, second])[0] == {"labels": ["all", 20]}


def test_no_part_of_what_made_a_run_is_overlooked(run_folder):
    first, second = read(run_folder), read(run_folder)
    changed = {"protocol": 99, "views": {"replays": 5}, "of a later version": {"some": {"switch": 1}}}
    second = replace(second, identity=second.identity | changed)
    differ = settings([first, second])[0]
    assert differ == {
        "protocol": [first.identity["protocol"], 99],
        "views replays": [None, 5],
        "of a later version some.switch": [None, 1],
    }
    assert not any("Every setting is equal" in note for note in table([first, second]).notes)
    second.identity["cell"]["train_type"] = "embed-KD"
    assert "views replays" not in settings([first, second])[0], "the other train type explains it"


def test_a_switch_is_named_where_no_name_tells_it(run_folder, other) -> None:
    first, second = read(run_folder), read(run_folder)
    second.identity["recipe"]["temperature"] = 1.0
    second.identity["dataset"]["content"] = "0" * 64
    differ = settings([first, second])[0]
    assert differ["recipe temperature"] == [4.0, 1.0]
    assert set(differ) == {"recipe temperature", "dataset content"}
    assert any("not measured on the same images" in note for note in table([first, second]).notes)


def test_what_is_said_of_seeds_and_of_the_projection(run_folder):
    def run(seed: int, recipe: str = "corrected", parameters: int = 9) -> FinishedRun:
        found = read(run_folder)
        found.identity["cell"] |= {"seed": seed, "recipe": recipe}
        return replace(found, metrics=found.metrics.model_copy(update={"student_parameters": parameters}))

    def notes(*runs: FinishedRun) -> str:
        return "\n".join(table(runs).notes)

    assert "One run per setting says nothing" in notes(run(0), run(1, "reference"))
    assert "Each run is a row of its own" in notes(run(0), run(1))
    assert "Each run is a row of its own" in notes(run(0), run(1), run(0, "reference"))
    assert "count its projection" not in notes(run(0), run(1))
    assert "count its projection onto the teacher's vectors, too" in notes(run(0), run(1, parameters=10))


def test_the_command(here, run_folder, other, tmp_path) -> None:
    answer = here("compare", run_folder, other, "--output", "c")
    assert answer.returncode == 0, answer.stderr
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (run_folder, other)]
    lines = answer.stdout.splitlines()
    for line, found in zip(lines[1:3], metrics, strict=True):
        top1 = found["last"]["test"]["top1"]
        assert line.split()[1:5] == [
            found["cell"]["recipe"],
            str(found["cell"]["seed"]),
            str(found["epochs"]),
            f"{100 * top1:.2f}",
        ]
    assert f"2: {other}" in lines
    assert any("compare the last epochs" in line for line in lines)
    rows = list(csv.DictReader((tmp_path / "c/comparison.csv").open()))
    assert [float(row["selected_top1"]) for row in rows] == [found["selected"]["test"]["top1"] for found in metrics]
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".csv", ".md", ".tex", ".html", ".png", ".svg"}
    with Image.open(tmp_path / "c/curves.png") as image:
        assert 0.005 < (np.asarray(image.convert("L")) < 200).mean() < 0.5


def test_the_curves_are_the_histories(run_folder, other) -> None:
    from clipkd.report.figures import compare as overlay

    drawn = overlay.draw([read(run_folder), read(other)])
    for line, folder in zip(drawn.axes[0].lines, (run_folder, other), strict=True):
        rows = list(csv.DictReader((folder / "history.csv").open()))
        np.testing.assert_allclose(line.get_ydata(), [100 * float(row["val_top1"]) for row in rows])
    assert drawn.axes[0].get_ylabel() == "test or validation top-1 (%)"


def test_refused(here, run_folder, other, tmp_path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "begun/.resume").mkdir(parents=True)
    for arguments, message in (
        (
            (run_folder, run_folder.parent / "." / run_folder.name / ""),
            f"run folders are needed; these are all {run_folder}",
        ),
        ((run_folder, other, "--output", "README.md"), "README.md is a file, not a folder"),
        ((run_folder, tmp_path), "not the folder of a finished run"),
        ((run_folder, tmp_path / "begun"), "repeat the command that trains it"),
    ):
        answer = here("compare", *arguments)
        assert (answer.returncode, message in answer.stderr) == (2, True), answer.stderr


def test_a_folder_with_nothing_but_a_lock_is_skipped(here, run_folder, other, tmp_path) -> None:
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused/.lock").write_text("released\n")
    answer = here("compare", run_folder, other, tmp_path / "refused", "--output", "c")
    assert answer.returncode == 0, answer.stderr
    assert f"skipped: {tmp_path / 'refused'} holds no run" in answer.stderr
