"""Run folders are read strictly: what is missing, damaged, impossible or of another run is named."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace

import pytest

from clipkd.cli import main
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import fingerprint
from clipkd.report.figures import figure_stems
from clipkd.runs.finished import read_run
from clipkd.runs.record import RunRecord
from clipkd.spec.grid import expand
from clipkd.spec.identities import names
from clipkd.spec.layout import Layout
from clipkd.spec.refusals import checked
from clipkd.spec.settings import Config
from clipkd.tables.consistency import identity_of
from clipkd.tables.results import Results
from clipkd.tables.teacher_stats import TeacherStats
from tests.synthetic import Study, demo, seal, write_study

EMBED = {"recipe": "corrected", "teacher": "digits-vit-s", "train_type": "embed-KD", "seed": 1}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Study:
    return write_study(demo(), tmp_path_factory.mktemp("original"))


@pytest.fixture
def study(original, tmp_path) -> Study:
    """Return a copy to damage."""
    shutil.copytree(original.root, tmp_path / "copy")
    return Study(original.config, tmp_path / "copy")


def collect(study: Study, partial: bool = False) -> Results:
    return Results.collect(study.config, study.results / "runs", study.data, partial)


def test_every_cell_of_the_config_is_read(study):
    found = collect(study)
    # per recipe and seed: supervised, 3 types x 2 teachers, 3 controls; and 2 live runs
    assert len(found.runs) == len(found.cells) == 2 * 2 * (1 + 6 + 3) + 2
    assert found.missing == ()
    assert found.gaps() == []


def test_what_is_looked_at_once_for_a_kind_is_that_of_every_seed():
    grid = demo()
    grid["grid"][0]["labels"] = [100, "all"]
    config = Config.model_validate(grid)
    cells, layout = expand(config)[0], Layout.of(config)
    assert len({cell.kind for cell in cells if cell.few_labels}) == sum(bool(cell.few_labels) for cell in cells)
    assert 2 * len({cell.kind for cell in cells if not cell.few_labels and not cell.is_cost_run}) == sum(
        not cell.few_labels and not cell.is_cost_run for cell in cells
    )
    for cell in cells:
        alike = identity_of(cell.kind, config, layout, "c", "fp32") | {"cell": names(cell)}
        assert alike == identity_of(cell, config, layout, "c", "fp32")
        assert replace(checked(cell.kind), seed=cell.seed) == checked(cell)


def test_teachers_are_looked_at_once_for_all_seeds(original, monkeypatch):
    asked = []
    contents = TeacherStats.contents
    monkeypatch.setattr(TeacherStats, "contents", lambda self, cell: asked.append(cell) or contents(self, cell))
    found = collect(original)
    assert len(asked) == len(set(asked)) == len({cell.kind for cell in found.cells}) < len(found.cells)


def test_every_missing_run_is_listed(study):
    shutil.rmtree(study.folder(**EMBED))
    (study.folder(train_type="supervised", recipe="reference", seed=0) / "metrics.json").unlink()
    with pytest.raises(DataError) as error:
        collect(study)
    message = str(error.value)
    assert "2 of 42 runs are missing" in message
    assert "digits, tiny-32, teacher digits-vit-s, embed-KD, recipe corrected, seed 1" in message
    assert "digits, tiny-32, teacher none, supervised, recipe reference, seed 0" in message


def test_every_wrong_run_is_named_at_once(study):
    unreadable = [study.folder(**EMBED | {"seed": seed}) for seed in (0, 1)]
    for folder in unreadable:
        study.change(folder, "metrics.json", "epochs", 3)
    other = study.folder(train_type="supervised", recipe="corrected", seed=1)
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["identity"]["training"]["learning_rate"] = 0.5
    metrics["fingerprint"] = fingerprint(metrics["identity"])
    (other / "metrics.json").write_text(json.dumps(metrics))
    seal(other)
    with pytest.raises(DataError) as error:
        collect(study, partial=True)
    message = str(error.value)
    assert message.startswith(f"3 problems in {study.results / 'runs'}:\n  ")
    assert all(f"delete {folder} " in message for folder in unreadable)
    assert f"{other / 'manifest.json'} does not match the config" in message
    assert "snakemake with this config trains it again" in message


def test_a_long_list_of_wrong_runs_ends_in_a_count(study):
    for cell in study.cells[:25]:
        study.change(study.results / "runs" / cell.folder, "metrics.json", "format", 1)
    with pytest.raises(DataError, match=r"(?s)^25 problems in.*\n  and 5 more$") as error:
        collect(study)
    assert str(error.value).count("field 'format'") == 20


def test_without_the_dataset_one_odd_run_does_not_make_the_others_wrong(study):
    shutil.rmtree(study.data / "datasets")
    odd = study.results / "runs" / study.cells[0].folder
    metrics = json.loads((odd / "metrics.json").read_text())
    metrics["identity"]["dataset"]["content"] = "d" * 64
    metrics["fingerprint"] = fingerprint(metrics["identity"])
    (odd / "metrics.json").write_text(json.dumps(metrics))
    seal(odd)
    with pytest.raises(DataError) as error:
        collect(study)
    assert str(error.value).startswith(f"{odd / 'manifest.json'} does not match the config and")


def test_metrics_of_another_fingerprint_than_the_manifests_are_refused(study, tmp_path):
    """Sealed with it: only the fingerprint itself tells that they are of another run."""
    cell = study.cells[0]
    folder = shutil.copytree(study.results / "runs" / cell.folder, tmp_path / "run")
    assert read_run(cell, folder).metrics
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"fingerprint": "0123456789abcdef"}))
    seal(folder)
    with pytest.raises(DataError, match=r"'fingerprint' differs from that of the manifest.json beside it"):
        read_run(cell, folder)


def command(study: Study, verb: str, *more: object) -> list[str]:
    (study.root / "config.json").write_text(study.config.model_dump_json(exclude_unset=True))
    given = {"--config": study.root / "config.json", "--results": study.results, "--data": study.data}
    return [verb, *(str(word) for pair in given.items() for word in pair), *map(str, more)]


@pytest.mark.parametrize("verb", ["tables", "figures", "report"])
def test_bad_paths_are_the_users_to_change(study, verb, capsys):
    nowhere, file = study.root / "nowhere", study.root / "file"
    file.write_text("mine")
    (study.root / "folder").mkdir()
    (study.root / "mine.yaml").write_text("grid: []\n")
    output = study.root / "folder" if verb == "report" else file
    for more, told in [
        (["--results", nowhere, "--partial"], f"--results {nowhere}: no such folder"),
        (["--output", output], f"--output {output}: "),
        (["--output", file / "below"], f"{file} is a file, not a folder"),
        (["--config", nowhere], f"{nowhere} does not exist"),
        (["--config", study.root / "mine.yaml"], f"--configfile {study.root / 'mine.yaml'}`"),
    ]:
        safe = [] if "--output" in more else ["--output", study.root / "unused"]
        assert main(command(study, verb, *more, *safe)) == 2
        assert told in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert not (study.root / "unused").exists()


@pytest.mark.parametrize("verb", ["tables", "figures", "report"])
def test_where_a_dataset_comes_from_is_in_the_config_alone(verb, study, capsys):
    with pytest.raises(SystemExit):
        main(command(study, verb, "--dataset-source", "nowhere"))
    assert "unrecognized arguments: --dataset-source" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["tables", "figures", "report", "check"])
def test_a_grid_of_which_nothing_is_left_is_refused(verb, tmp_path, monkeypatch, capsys):
    config = demo()
    config["grid"] = [config["grid"][0] | {"datasets": ["imagenet"]}]
    study = Study(Config.model_validate(config), tmp_path)
    study.results.mkdir()
    monkeypatch.chdir(tmp_path)
    words = command(study, verb, "--partial")
    assert main(["check", "--base", "config.json"] if verb == "check" else words) == 2
    assert re.search(r"nothing is left of the grid:\n  .*imagenet", capsys.readouterr().err)


@pytest.mark.slow
def test_a_report_writes_the_tables_of_clipkd_tables(study, capsys, empty_figures):
    """To the byte, from one reading of the runs: what the workflow calls."""
    alone, beside = study.root / "alone", study.root / "beside"
    assert main(command(study, "tables", "--output", alone, "--summary", alone / "summary.json")) == 0
    rest = ["--figures", study.root / "figures", "--output", study.root / "report.html"]
    assert main(command(study, "report", *rest, "--summary", beside / "summary.json")) == 2
    assert "add --tables FOLDER" in capsys.readouterr().err
    assert main(command(study, "report", *rest, "--tables", beside, "--summary", beside / "summary.json")) == 0
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (alone, beside)]
    assert contents[0] == contents[1]
    assert len(contents[0]) > 20


@pytest.mark.slow
def test_a_report_of_an_incomplete_grid_is_asked_for_and_draws_its_figures(study, capsys, empty_figures):
    drawn, page = study.root / "so far", study.root / "report.html"
    shutil.rmtree(study.folder(**EMBED))
    where = ["--figures", drawn, "--output", page]
    assert main(command(study, "report", *where)) == 3
    assert "add `--partial`" in capsys.readouterr().err
    assert not drawn.exists()
    assert main(command(study, "report", "--partial", "--figures", study.root / "config.json", *where[2:])) == 2
    assert f"--figures {study.root / 'config.json'}: " in capsys.readouterr().err
    assert main(command(study, "report", "--partial", *where)) == 0
    stems = figure_stems(study.config)
    assert {path.name for path in drawn.glob("*.*g")} == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    text = page.read_text(encoding="utf-8")
    assert all(base64.b64encode((drawn / f"{stem}.svg").read_bytes()).decode() in text for stem in stems)


@pytest.mark.parametrize(
    ("name", "key", "value", "field"),
    [
        ("metrics.json", "last.test.top1", 1.01, "last.test.top1"),
        ("metrics.json", "selected.test.top5", 0.1, "selected.test.top5"),
        ("metrics.json", "selected.validation.top1", -0.1, "selected.validation.top1"),
        ("metrics.json", "cell.seed", 0, "cell.seed"),
        ("metrics.json", "cell.teacher", "digits-vit-xs", "cell.teacher"),
        ("metrics.json", "cell.teacher_source", "live", "cell.teacher_source"),
        ("metrics.json", "epochs", 3, "epochs"),
        ("metrics.json", "last.epoch", 3, "last.epoch"),
        ("metrics.json", "selected.epoch", 9, "selected.epoch"),
        ("metrics.json", "selected.by", "test", "selected.by"),
        ("metrics.json", "classes", 100, "classes"),
        ("metrics.json", "format", 1, "format"),
        ("cost.json", "seconds_per_epoch", [1.0], "seconds_per_epoch"),
        ("cost.json", "seconds_per_epoch", [1.0, 1.0, float("nan"), 1.0], "seconds_per_epoch[2]"),
        ("cost.json", "images_per_second", float("inf"), "images_per_second"),
        ("cost.json", "teacher.source", "live", "teacher.source"),
        ("cost.json", "weights_bytes", 1.5, "weights_bytes"),
        ("cost.json", "device.name", "", "device.name"),
        ("metrics.json", "last.test.f1", 0.5, "last.test.f1"),
        ("cost.json", "watts", 70.0, "watts"),
    ],
)
def test_a_wrong_field_is_refused_by_file_and_name(study, name, key, value, field):
    folder = study.folder(**EMBED)
    study.change(folder, name, key, value)
    with pytest.raises(DataError) as error:
        collect(study, partial=True)
    assert f"{folder / name}: field '{field}'" in str(error.value)


@pytest.mark.parametrize("name", ["metrics.json", "cost.json"])
def test_a_missing_field_is_refused(study, name):
    folder = study.folder(**EMBED)
    data = json.loads((folder / name).read_text())
    key = {"metrics.json": "last", "cost.json": "peak_memory_bytes"}[name]
    del data[key]
    (folder / name).write_text(json.dumps(data))
    with pytest.raises(DataError, match=f"{name}: field '{key}.*is missing"):
        collect(study)


def test_a_record_is_written_as_it_was_read(study):
    """To the byte, also where a run of an earlier version measured less."""
    for cell in study.cells:
        folder = study.results / "runs" / cell.folder
        run = read_run(cell, folder)
        for name, text in RunRecord(metrics=run.metrics, cost=run.cost, history=run.history).files().items():
            assert (folder / name).read_text() == text


@pytest.mark.parametrize("name", ["cost.json", "history.csv"])
def test_a_run_without_one_of_its_files_is_refused_not_left_out(study, name):
    (study.folder(**EMBED) / name).unlink()
    with pytest.raises(DataError, match=f"{name} (does not exist|is missing)"):
        collect(study, partial=True)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("val_top1", "top1", "column 'val_top1' is missing"),
        ("\n2,", "\n3,", "column 'epoch' does not count 1 to 4"),
        ("\n2,0.001", "\n2,nan", "column 'learning_rate' of epoch 2 is nan, not a finite number"),
        ("\n2,0.001", "\n2,much", "column 'learning_rate' of epoch 2 is 'much'"),
        ("1.0,1.5,0.6", "1.0,1.5,60.", "column 'val_top1' of epoch 2 is 60."),
    ],
)
def test_a_wrong_history_is_refused(study, old, new, problem):
    path = study.folder(**EMBED) / "history.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=r"history\.csv is damaged"):  # by its bytes: tables do not read the lines
        collect(study)
    seal(path.parent)
    (run,) = (run for run in collect(study).runs.values() if run.path == path.parent)
    with pytest.raises(DataError, match=re.escape(problem)):
        run.history  # noqa: B018  (as figures read it)


def test_a_missing_manifest_is_refused_unless_partial(study):
    for folder in (study.data / "embeddings" / "digits" / "digits-vit-xs").glob("*-head-*"):
        shutil.rmtree(folder)
    with pytest.raises(DataError, match="head embeddings/digits/digits-vit-xs"):
        collect(study)
    assert "head embeddings/digits/digits-vit-xs" in collect(study, partial=True).gaps()[0]


def test_what_the_grid_cannot_have_is_told(tmp_path):
    config = demo()
    config["grid"] = [config["grid"][0] | {"datasets": ["digits", "imagenet"]}]
    study = write_study(config, tmp_path)
    assert "imagenet" in collect(study).left_out[0]
