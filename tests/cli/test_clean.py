"""`clipkd clean`: deletes what was made for one config, lists it first, and nothing else."""

from __future__ import annotations

import json
import resource
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from clipkd.cli import main
from clipkd.core.lock import acquire
from clipkd.runs.record import METRICS
from clipkd.spec.chains import expand
from clipkd.spec.config import load
from clipkd.tables.cleanup import remove_leftovers
from clipkd.workflow import cleaning, session
from tests.synthetic import Study, demo, write_study

ROOT = Path(__file__).parents[2]
NOTE = "results/runs/reference/digits/tiny-32/none/supervised/seed0/notes.txt"
OTHERS = [NOTE, "results/runs/mine/notes.txt", "results/tables/mine.md", "logs/runs/other.log", "data/datasets/birds/x"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Runs, a table and logs of the demo, and files of somebody else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(demo()))
    made = write_study(load([Path("mine.yaml")]).model_dump(mode="json"), Path())
    cleaning.RESOLVED.write_text(made.config.model_dump_json())
    first = next(iter(made.cells)).folder
    mine = ["results/tables/accuracy.md", f"logs/runs/{first}-0123.log", f"results/benchmarks/runs/{first}-0123.tsv"]
    for name in [*OTHERS, *mine]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("text")
    remove_leftovers(Path("results/tables"), ["accuracy.md"])
    return made


def clean(*options: str) -> int:
    return main(["clean", "--base", "mine.yaml", *options])


def files() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*") if path.is_file()}


def test_only_what_is_of_the_config_goes(study: Study) -> None:
    kept = {name for name in files() if name.startswith("data/")} | {*OTHERS, "mine.yaml"}
    assert clean("--yes") == 0
    assert files() == kept


def test_data_go_only_when_asked_for(study: Study) -> None:
    assert clean("--yes", "--data") == 0
    assert files() == {*OTHERS, "mine.yaml"}


def test_the_tables_of_another_grid_stay(study: Study) -> None:
    resolved = json.loads(cleaning.RESOLVED.read_text())
    resolved["training"]["learning_rate"] *= 2
    cleaning.RESOLVED.write_text(json.dumps(resolved))
    assert clean("--yes") == 0
    assert Path("results/tables/accuracy.md").exists()
    assert not list(Path("results/runs").rglob(METRICS))


def test_nothing_goes_without_an_answer(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    assert clean() == 2
    shown = capsys.readouterr()
    assert "add --yes" in shown.err
    assert all(f"results/runs/{cell.folder}\n" in shown.out for cell in study.cells)
    assert files() == before


def test_nothing_goes_while_a_workflow_runs(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    lock = session.take(Path())
    try:
        assert clean("--yes", "--data") == 4
    finally:
        lock.release()
    assert "a workflow is running in this folder" in capsys.readouterr().err
    assert before <= files()


def test_what_was_made_from_images_that_are_gone_is_cleaned(study: Study) -> None:
    config = demo()
    config["grid"] = [config["grid"][0] | {"datasets": ["mine"], "train_types": ["supervised"]}]
    Path("mine.yaml").write_text(yaml.safe_dump(config | {"sources": {"mine": "gone/mine"}}))
    assert clean("--yes") == 0


def test_nothing_goes_while_a_run_is_trained(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    before = files()
    folder = study.folder()
    with acquire(folder):
        assert clean("--yes") == 4
    assert f"{folder} is being written" in capsys.readouterr().err
    assert {name for name in files() ^ before if "/.lock" not in name} == set()


@pytest.mark.parametrize("is_held", [False, True])
def test_a_full_disk_can_be_cleaned(is_held: bool, study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """No lock can be written there; one that is held still counts."""
    session.take(Path()).release()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with acquire(study.folder()) if is_held else nullcontext():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            code = clean("--yes")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == (4 if is_held else 0), capsys.readouterr().err
    assert (study.folder() / METRICS).exists() == is_held


def test_runs_with_other_settings_stay(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    """Two configs that differ in epochs share their run folders; what is there is the other one's."""
    mine, other = demo(), "results/runs/reference/digits/tiny-32/none/supervised/seed0"
    mine["training"]["epochs"] += 1
    Path("mine.yaml").write_text(yaml.safe_dump(mine))
    by_hand = Path("results/evaluations/reference/digits/tiny-32/none/supervised/seed0-on-birds.json")
    by_hand.parent.mkdir(parents=True)
    by_hand.write_text("{}")
    config = load([Path("mine.yaml")])
    (warned,) = cleaning.replaced(expand(config)[0], config)
    assert warned.startswith("40 finished runs with other settings are trained again, and then replaced, the first: ")
    assert "(epochs: found 4, wanted 5)" in warned
    before = files()
    assert clean("--yes") == 0
    assert f"kept: {other}, trained with other settings\n" in capsys.readouterr().out
    runs_with_own_epochs = {name for name in before - files() if name.endswith(METRICS)}
    assert {Path(name).parents[1].name for name in runs_with_own_epochs} == {"vanilla-live", "teacher-KD-live"}
    assert by_hand.exists()


def test_a_folder_in_which_only_a_note_is_left_is_not_listed_again(study: Study, capsys) -> None:
    assert clean("--yes") == 0
    capsys.readouterr()
    assert clean("--yes") == 0
    assert capsys.readouterr().out == "nothing there that was made for mine.yaml\n"


def test_logs_and_benchmarks_are_counted_and_not_listed(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert clean() == 2
    shown = capsys.readouterr().out
    assert "MB  1 logs in logs\n" in shown
    assert "MB  1 benchmarks in results/benchmarks\n" in shown
    assert "0123" not in shown
