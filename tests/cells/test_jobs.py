"""Which students one job of the workflow trains, and that its command line trains these and no others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from clipkd.cli import parser
from clipkd.cli.options import layout_of
from clipkd.cli.verbs.train import cells_of, numbers_of
from clipkd.core.errors import InputError
from clipkd.spec import chains
from clipkd.spec.config import load
from clipkd.spec.flags import run_flags
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config
from clipkd.workflow import stamps

ROOT = Path(__file__).parents[2]
SHA = "0123456789abcdef0123456789abcdef01234567"
MIXED = f"""
grid:
  - {{name: mixed, datasets: [digits], teachers: [digits-vit-s, tower, "digits-vit-s+digits-vit-xs?weights=2,1"],
     students: [tiny-32], train_types: [supervised, embed-KD], recipes: [corrected, modern-flip], seeds: [4, 0]}}
  - {{name: few, datasets: [digits], teachers: [digits-vit-s], students: [tiny-32], labels: [50, all],
     train_types: [supervised, vanilla, embed-KD], recipes: [modern-flip], seeds: [0, 1]}}
teachers:
  tower: owner/model@{SHA}:text
class_names:
  digits: [zero, one, two, three, four, five, six, seven, eight, nine]
prototypes: {{per_class: 7, templates: ["a digit {{}}", "the {{}}"]}}
embeddings: {{views: 3, dtype: float32}}
"""


def jobs_of(config: Config, size: int = 8) -> list[stamps.TrainJob]:
    return list(stamps.jobs(chains.expand(config)[0], config, Layout.of(config), size).values())


def shipped(name: str, folder: Path) -> Config:
    """Return the config of a file of the project, or the one above."""
    (folder / "mixed.yaml").write_text(MIXED)
    path = folder / "mixed.yaml" if name == "mixed" else ROOT / f"config/{name}.yaml"
    return load(list(dict.fromkeys([ROOT / "config/config.yaml", path])))


@pytest.mark.parametrize("name", ["config", "demo", "mixed"])
def test_the_line_of_a_job_trains_its_students_and_no_others(name: str, tmp_path: Path) -> None:
    config = shipped(name, tmp_path)
    layout = Layout.of(config)
    for job in jobs_of(config):
        options = parser().parse_args(["train", *map(str, run_flags(config, job.cells))])
        found = cells_of(options)
        assert sorted(cell.folder for cell in found) == sorted(cell.folder for cell in job.cells)
        for cell in found:
            wanted = next(one for one in job.cells if one.folder == cell.folder)
            ours = run_identity(wanted, wanted.hyperparameters(config), layout, content="")
            assert run_identity(cell, numbers_of(options, cell.recipe), layout_of(options), content="") == ours


@pytest.mark.parametrize(("name", "size", "count"), [("config", 1, 178), ("config", 8, 28), ("demo", 8, 8)])
def test_jobs_train_students_of_a_shape_each_once(name: str, size: int, count: int, tmp_path: Path) -> None:
    """156 students of base-32 in 20 jobs, 18 larger ones in 6, and 2 that measure a live teacher's cost."""
    config = shipped(name, tmp_path)
    found = jobs_of(config, size)
    assert len(found) == count
    trained = [cell.folder for job in found for cell in job.cells]
    assert sorted(trained) == sorted(cell.folder for cell in chains.expand(config)[0])
    assert all(len({(one.recipe, one.dataset, one.student) for one in job.cells}) == 1 for job in found)


def teach_each_other(found: Iterable[stamps.TrainJob]) -> bool:
    """Return whether a job waits for itself or for a job that waits for it."""
    found = list(found)
    job_of = {cell.folder: number for number, job in enumerate(found) for cell in job.cells}
    waits = {
        number: {
            job_of[spec.run]
            for cell in job.cells
            if cell.teacher_spec
            for spec in cell.teacher_spec.members
            if getattr(spec, "run", None) in job_of
        }
        for number, job in enumerate(found)
    }
    while ready := [number for number, others in waits.items() if not others & waits.keys()]:
        for number in ready:
            del waits[number]
    return bool(waits)


def test_students_that_teach_each_other_are_never_in_jobs_that_wait_for_each_other(tmp_path, monkeypatch) -> None:
    """Two pairs of one shape, crosswise: in jobs of two in the grid's order, each job would wait for the other."""
    first, second = ("corrected/digits/tiny-32/none/supervised/seed0", "corrected/digits/tiny-32/none/supervised/seed1")
    (tmp_path / "mine.yaml").write_text(
        f"""
teachers: {{one: "run:{first}", two: "run:{second}"}}
grid:
  - {{name: pupils, datasets: [digits], teachers: [one, two], students: [tiny-32], train_types: [embed-KD],
     recipes: [corrected], seeds: [0]}}
training: {{epochs: 2}}
"""
    )
    config = load([ROOT / "config/config.yaml", tmp_path / "mine.yaml"])
    found = jobs_of(config)
    assert sorted(len(job.cells) for job in found) == [2, 2]
    assert not teach_each_other(found)
    monkeypatch.setattr(stamps, "generations", lambda cells: dict.fromkeys([cell.folder for cell in cells], 0))
    assert teach_each_other(jobs_of(config)), "the control: without generations they wait"


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("corrected/digits/tiny-32/none/supervised/seed2", "no such run; did you mean '.*seed1'"),
        ("corrected/digits/tiny-32/digits-vit-s/embed-KD/seed0", "no such run"),
    ],
)
def test_a_run_that_the_options_do_not_name_is_refused(only: str, message: str) -> None:
    line = "train --dataset-name digits --student tiny-32 --recipe corrected --train-type supervised --seed 0 1 --only"
    with pytest.raises(InputError, match=message):
        cells_of(parser().parse_args([*line.split(), only]))
