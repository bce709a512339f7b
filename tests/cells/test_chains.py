"""Chains in a config: runs of the grid as teachers of other runs, known before they are there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipkd.cli import parser
from clipkd.cli.verbs.train import cells_of
from clipkd.core.errors import InputError
from clipkd.core.fingerprint import fingerprint
from clipkd.plugins import teachers
from clipkd.spec.chains import expand
from clipkd.spec.config import load, resolved
from clipkd.spec.flags import run_flags
from clipkd.spec.identities import run_identity
from clipkd.spec.layout import RUNS, Layout
from clipkd.spec.settings import Config
from clipkd.tables.informed import informed_notes
from clipkd.workflow import stamps

BASE = Path(__file__).parents[2] / "config/config.yaml"
FIRST = "corrected/digits/tiny-32/digits-vit-s/embed-KD/seed0"
SECOND = "corrected/digits/base-32/assistant/vanilla/seed1"
CHAIN = """
teachers:
  assistant: run:{first}
  again: run:{second}
grid:
  - {{name: chain, datasets: [digits], teachers: [{teachers}], students: [tiny-32], train_types: [{train_types}],
     recipes: [corrected], seeds: [0]}}
training: {{epochs: {epochs}, learning_rate: {rate}}}
"""


def read(folder: Path, **changes: Any) -> Config:
    """Return the config of a chain of three trainings."""
    values = {
        "first": FIRST,
        "second": SECOND,
        "teachers": "again",
        "train_types": "embed-KD",
        "epochs": 7,
        "rate": 0.1,
    }
    (folder / "mine.yaml").write_text(CHAIN.format(**values | changes))
    return load([BASE, folder / "mine.yaml"])


def test_the_runs_that_teach_are_planned_too(tmp_path: Path) -> None:
    config = read(tmp_path)
    cells, _ = expand(config)
    assert [cell.folder for cell in cells] == ["corrected/digits/tiny-32/again/embed-KD/seed0", SECOND, FIRST]
    assert [cell.epochs for cell in cells] == [7, 7, 7]
    assert {job.folders[0] for job in stamps.jobs(cells, config, Layout.of(config), 1).values()} == {
        RUNS / cell.folder for cell in cells
    }


def test_a_teacher_is_known_by_the_settings_of_its_run_and_of_all_before_it(tmp_path: Path) -> None:
    def of_second(**changes: Any) -> str:
        """Return the identity that the second run has as a teacher."""
        config = read(tmp_path, **changes)
        cells, _ = expand(config)
        spec = teachers.get(config.resolved("again"))
        run = next(cell for cell in cells if cell.folder == spec.run)  # type: ignore[attr-defined]
        settings = run_identity(run, config.hyperparameters(run.epochs), Layout.of(config), content="")
        assert spec.identity() == {"run": fingerprint(settings)}
        return fingerprint(settings)

    usual = of_second()
    assert of_second() == usual
    assert of_second(train_types="vanilla") == usual, "what it teaches does not make a teacher"
    others = [of_second(epochs=8), of_second(rate=0.2), of_second(first=FIRST.replace("seed0", "seed3"))]
    assert len({usual, *others}) == 4


def test_a_run_that_the_grid_asks_for_itself_is_that_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    read(tmp_path, teachers="assistant")
    path.write_text(path.read_text().replace("grid:", f"grid:\n  - {BLOCK}"))
    config = load([BASE, path])
    cells, _ = expand(config)
    assert [(cell.folder, cell.epochs) for cell in cells] == [
        (FIRST, 3),
        ("corrected/digits/tiny-32/assistant/embed-KD/seed0", 7),
    ]
    settings = run_identity(cells[0], config.hyperparameters(3), Layout.of(config), content="")
    assert teachers.get(cells[1].teacher).identity() == {"run": fingerprint(settings)}


BLOCK = (
    "{name: first, datasets: [Digits], teachers: [digits-vit-s], students: [tiny-32], train_types: [embed-KD], "
    "recipes: [corrected], seeds: [0], epochs: 3}"
)


def test_a_resolved_config_means_the_same(tmp_path: Path) -> None:
    """Tables read it, and must look for the same runs."""
    config = read(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(exclude_unset=True))
    assert expand(resolved(path)) == expand(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first": FIRST.replace("digits-vit-s", "again")}, "in a circle: assistant -> again -> assistant"),
        ({"first": FIRST.replace("digits-vit-s", "assistant")}, "in a circle: assistant -> assistant"),
        ({"first": FIRST.replace("digits-vit-s", "a+assistant")}, "in a circle: assistant -> assistant"),
        ({"first": FIRST.replace("digits-vit-s", "digit-vits")}, "no teacher is called 'digit-vits'.*'digits-vit-s'"),
        ({"first": FIRST.replace("digits-vit-s", "none")}, "train type 'embed-KD' has a teacher"),
        ({"first": FIRST.replace("embed-KD", "supervised")}, "train type 'supervised' has no teacher"),
        ({"first": FIRST.replace("embed-KD", "embed-DK")}, "unknown train type 'embed-DK'"),
        ({"first": FIRST.replace("tiny-32", "tiny-23")}, "unknown student 'tiny-23'.*'tiny-32'"),
        ({"first": FIRST.replace("digits/", "digitz/")}, "unknown dataset 'digitz'"),
        ({"first": FIRST.replace("corrected/", "correct/")}, "unknown recipe 'correct'"),
        ({"first": FIRST.removesuffix("/seed0")}, "name a run by its folder below results/runs"),
        ({"first": FIRST + ":mean"}, "only what its classifier sees is taken"),
        ({"teachers": f"'run:{FIRST}'"}, "name a run of the grid under `teachers`"),
    ],
)
def test_a_chain_that_can_not_be_is_refused(changes: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"mine\.yaml:\d+: .*{words}"):
        read(tmp_path, **changes)


EACH = "corrected/digits/tiny-32/assistant/vanilla-60-labels/seed*"
ROUNDS = f"""
teachers:
  assistant: run:{FIRST.replace("embed-KD/seed0", "vanilla-60-labels/seed*")}
  again: run:{EACH}
grid:
  - {{name: rounds, datasets: [digits], teachers: [assistant, again], students: [tiny-32], train_types: [vanilla],
     recipes: [corrected], seeds: [SEEDS], labels: [60]}}
training: {{epochs: 7, stack: 8}}
"""


def rounds(folder: Path, seeds: str, **changes: str) -> Config:
    """Return the config of three rounds with few labels, each student taught by that of its own seed."""
    text = ROUNDS.replace("SEEDS", seeds)
    for old, new in changes.items():
        text = text.replace(f"{old}: run:", f"{old}: run:{new}\n  # ")
    (folder / "rounds.yaml").write_text(text)
    return load([BASE, folder / "rounds.yaml"])


def test_with_seed_star_each_student_is_taught_by_the_run_of_its_own_seed(tmp_path: Path) -> None:
    config = rounds(tmp_path, "0, 3")
    layout, found = Layout.of(config), {cell.folder: cell for cell in expand(config)[0]}
    assert len(found) == 6
    for seed in (0, 3):
        last = found[f"corrected/digits/tiny-32/again/vanilla-60-labels/seed{seed}"]
        for run in (EACH, ROUNDS.partition("assistant: run:")[2].partition("\n")[0]):
            spec = last.teacher_spec
            assert isinstance(spec, teachers.StudentTeacher)
            last = found[run.replace("*", str(seed))]
            settings = run_identity(last, last.hyperparameters(config), layout, content="")
            assert (spec.run, spec.settings) == (last.folder, fingerprint(settings))
            assert spec.few_labels == ("digits", 60, seed)
    # One row of a table, and one job, for all seeds.
    assert sorted(len(job.cells) for job in stamps.jobs(found.values(), config, layout, 8).values()) == [2, 2, 2]
    # The command that a rule calls trains the same runs; a seed that is added changes none of those that are there.
    more = rounds(tmp_path, "0, 3, 5")
    grown = {cell.folder: cell for cell in expand(more)[0]}
    for folder, cell in found.items():
        both = [[replace(one, seed=seed) for seed in (0, 3)] for one in (cell, grown[folder])]
        lines = [run_flags(*pair) for pair in zip((config, more), both, strict=True)]
        options = parser().parse_args(["train", *map(str, lines[0])])
        (mine,) = [one for one in cells_of(options) if one.seed == cell.seed]
        identities = [
            run_identity(one, one.hyperparameters(config), layout, content="") for one in (cell, mine, grown[folder])
        ]
        assert identities == [identities[0]] * 3
        assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("run", "words", "named"),
    [
        (EACH.replace("*", "0").replace("assistant", "digits-vit-s"), "60 labels of seed 0, .* 60 of seed 3", "60"),
        (EACH.replace("60", "70").replace("assistant", "digits-vit-s"), "70 labels of seed 0, .* 60 of seed 0", "60"),
    ],
)
def test_a_teacher_that_saw_other_labels_than_its_student_may_see_is_refused(
    run: str, words: str, named: str, tmp_path: Path
) -> None:
    own = f"run:{EACH.replace('60', named).replace('assistant', 'digits-vit-s')}"
    with pytest.raises(InputError, match=rf"teacher 'again' was trained with {words}.*its own seed: {re.escape(own)}$"):
        expand(rounds(tmp_path, "0, 3", again=run))
    fewer = EACH.replace("60", "50").replace("assistant", "digits-vit-s")
    assert len(expand(rounds(tmp_path, "0, 3", again=fewer))[0]) == 8  # the control: its labels are among the student's


def test_teachers_of_a_chain_can_be_several(tmp_path: Path) -> None:
    """A `+` in the folder of a run that teaches is a part of its name."""
    both = "corrected/digits/tiny-32/digits-vit-s+digits-vit-xs/embed-KD/seed0"
    cells, _ = expand(read(tmp_path, first=both, teachers="assistant+digits-vit-s"))
    assert [cell.folder for cell in cells] == [
        "corrected/digits/tiny-32/assistant+digits-vit-s/embed-KD/seed0",
        both,
    ]
    assert [len(cell.by_teacher) for cell in cells] == [2, 2]


def test_a_run_that_teaches_is_as_long_as_those_beside_it(tmp_path: Path) -> None:
    """The grid names its first seed with epochs of its own; the chain adds the second one."""
    mine = """
teachers: {first: "run:corrected/digits/tiny-32/none/supervised/seed*"}
grid:
  - {name: a, datasets: [digits], students: [tiny-32], train_types: [supervised], recipes: [corrected], seeds: [0],
     epochs: 2}
  - {name: b, datasets: [digits], teachers: [first], students: [tiny-32], train_types: [vanilla], recipes: [corrected],
     seeds: [0, 1]}
training: {epochs: 4}
"""
    (tmp_path / "mine.yaml").write_text(mine)
    with pytest.raises(InputError, match=r"supervised/seed1 has 4 epochs and .*supervised/seed0 2: they would share"):
        expand(load([BASE, tmp_path / "mine.yaml"]))


def test_a_student_of_vectors_of_one_view_teaches(tmp_path: Path) -> None:
    run = "corrected/digits/tiny-32/mine/feature-KD-one-view/seed0"
    np.save(tmp_path / "train.npy", np.eye(4, dtype=np.float32))
    mine = f"""
teachers: {{mine: "embeddings:{tmp_path}", first: "run:{run}"}}
sources: {{photos: "{tmp_path}"}}
grid:
  - {{name: a, datasets: [photos], teachers: [mine], students: [tiny-32], train_types: [feature-KD],
     recipes: [corrected], seeds: [0]}}
  - {{name: b, datasets: [photos], teachers: [first], students: [tiny-32], train_types: [vanilla], recipes: [corrected],
     seeds: [0]}}
""".replace("/digits/", "/photos/")
    (tmp_path / "mine.yaml").write_text(mine)
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
    assert run.replace("/digits/", "/photos/") in {
        cell.folder for cell in expand(load([BASE, tmp_path / "mine.yaml"]))[0]
    }


@pytest.mark.parametrize(("recipe", "is_named"), [("reference", True), ("corrected", False)])
def test_a_teacher_whose_epoch_the_test_split_chose_is_named(recipe: str, is_named: bool, tmp_path: Path) -> None:
    """Also where the run only stands above the one that teaches."""
    config = read(tmp_path, first=FIRST.replace("corrected", recipe))
    cells, _ = expand(config)
    notes = [note for note in informed_notes(cells, config) if "best accuracy on the test images" in note]
    assert len(notes) == 2 * is_named
