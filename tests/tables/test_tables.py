"""The tables, from synthetic runs whose means, deviations and ratios can be worked out by hand."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import clipkd
from clipkd.cli import main
from clipkd.core.errors import DataError
from clipkd.core.files import write_json
from clipkd.spec import chains
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config
from clipkd.tables import metrics_file, report_entry, table_files, table_stems, teacher_matters, write_tables
from clipkd.tables.accuracy import accuracy
from clipkd.tables.cost import count
from clipkd.tables.frame import frame
from clipkd.tables.results import Results
from clipkd.tables.teacher_stats import TeacherStats, class_cosine
from tests import synthetic
from tests.synthetic import Study, demo, small, top1, write_run, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return write_study(demo(), tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def tables(study) -> Path:
    return written(study, "tables")


def written(study: Study, name: str, partial: bool = False) -> Path:
    write_tables(study.config, study.results, study.data, study.root / name, partial)
    return study.root / name


def records(folder: Path, stem: str) -> list[dict[str, str]]:
    with open(folder / f"{stem}.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def record(folder: Path, stem: str, **wanted: str) -> dict[str, str]:
    found = [row for row in records(folder, stem) if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def line(folder: Path, stem: str, start: str) -> list[str]:
    """Return the entries of the Markdown table's row that starts so."""
    text = (folder / f"{stem}.md").read_text(encoding="utf-8")
    return next(row for row in text.splitlines() if row.startswith(f"| {start}")).strip("| ").split(" | ")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_names_are_known_before_anything_runs(study, tables):
    stems = table_stems(study.config)
    assert sorted(contents(tables)) == sorted(table_files(study.config))
    assert "accuracy-corrected-selected-top1" in stems
    assert "accuracy-reference-best-test-top5" in stems
    assert {report_entry(stem)["category"] for stem in stems} == {"Tables"}
    titles = [report_entry(stem)["labels"]["table"] for stem in stems]
    assert len(set(titles)) == len(titles)


@pytest.mark.slow
@pytest.mark.parametrize(("images", "epoch"), [(99, "last"), (100, "selected"), (None, "selected")])
def test_few_validation_images_choose_no_headline(images, epoch, tmp_path):
    """Comparisons then use the last epoch, and the tables say how many images there are; None: an older run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "VALIDATION", images)
        study = write_study(small(), tmp_path / "study")
    folder = written(study, "tables")
    runs = pd.read_csv(folder / "runs.csv")
    assert set(runs[runs.is_headline & (runs.recipe == "corrected")].epoch) == {epoch}
    assert set(runs[runs.is_headline & (runs.recipe == "reference")].epoch) == {"last"}
    notes = (folder / "accuracy-corrected-selected-top1.md").read_text(encoding="utf-8")
    said = f"digits: {images} images are held out of {1000 + (images or 0):,} to choose the epoch"
    assert (said in notes) == (images is not None)
    assert ("these are few, so the last epoch is kept and compared" in notes) == (images == 99)
    assert "held out" not in (folder / "accuracy-reference-last-top1.md").read_text(encoding="utf-8")


def test_one_run_with_few_validation_images_decides_for_all_it_is_compared_with(tmp_path):
    study = write_study(small(), tmp_path / "study")
    few = next(cell for cell in study.cells if cell.recipe == "corrected" and cell.train_type == "vanilla")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "VALIDATION", 99)
        write_run(few, study, top1(few))
    runs = pd.read_csv(written(study, "tables") / "runs.csv")
    assert set(runs[runs.is_headline & (runs.recipe == "corrected")].epoch) == {"last"}


def test_a_run_without_labels_has_no_say_in_the_epoch_of_those_with_labels(tmp_path):
    config = small()
    config["grid"].append(config["grid"][0] | {"train_types": ["feature-KD"], "recipes": ["corrected"]})
    config["grid"][1]["labels"] = ["none"]
    runs = pd.read_csv(written(write_study(config, tmp_path / "study", lambda cell: 0.8), "tables") / "runs.csv")
    assert set(runs[runs.labels == "none"].validation_images) == {0}
    compared = runs[runs.is_headline & (runs.recipe == "corrected") & (runs.labels == "all")]
    assert (set(compared.epoch), len(compared)) == ({"selected"}, 4)


@pytest.mark.parametrize(("level", "is_said"), [(0.14, True), (0.16, False)])
def test_students_near_chance_are_named_where_they_are_compared(level, is_said, tmp_path):
    folder = written(write_study(small(), tmp_path / "study", lambda cell: level), "tables")
    for stem in ("accuracy-corrected-last-top1", "teacher-matters"):
        notes = (folder / f"{stem}.md").read_text(encoding="utf-8")
        assert ("digits: no student's top-1 is far above chance (10 %)" in notes) == is_said


def test_means_that_print_alike_are_equally_good():
    names = {"recipe": "corrected", "dataset": "digits", "student": "tiny-32", "epoch": "last", "state": "finished"}
    names["labels"] = "all"
    means = {"a": 0.800012, "b": 0.800038, "c": 0.79994}  # 80.00, 80.00 and 79.99 percent
    runs = pd.DataFrame(
        [names | {"teacher": one, "train_type": "vanilla", "epochs": 1, "top1": mean} for one, mean in means.items()]
    )
    found = accuracy(runs)
    assert dict(zip(found.teacher, found.is_best, strict=True)) == {"a": True, "b": True, "c": False}


def test_one_frame_holds_every_run(study, tables):
    """In one line for a user, and as results/tables/runs.csv."""
    write_json(study.results / "config.json", study.config.model_dump(exclude_unset=True))
    found = clipkd.results(study.results)
    assert len(found) == 2 * len(study.cells)
    run = found.query("recipe == 'corrected' and train_type == 'embed-KD' and teacher == 'digits-vit-xs' and seed == 1")
    assert dict(zip(run.epoch, run.top1, strict=True)) == pytest.approx({"last": 0.83, "selected": 0.835})
    assert list(run.is_headline) == [False, True]
    assert (run.extraction_passes == 50).all()
    written = pd.read_csv(tables / "runs.csv")
    pd.testing.assert_frame_equal(written, found, check_dtype=False)


def test_the_summary_and_the_frame_have_a_teachers_name_in_folders(tmp_path):
    """So that `dvc metrics diff` compares the numbers before and after a change of a run that teaches."""
    config = demo() | {"teachers": {"older": {"model": "run:corrected/digits/tiny-32/none/supervised/seed*"}}}
    block = config["grid"][0] | {"recipes": ["corrected"]}
    config["grid"] = [block | {"train_types": ["supervised"]}, block | {"name": "born again", "teachers": ["older"]}]
    pinned = chains.pinned(Config.model_validate(config), lambda key, message: pytest.fail(message))
    cells = chains.expand(pinned)[0]
    runs = frame(cells, {}, {}, TeacherStats(Layout.of(pinned, tmp_path)), {})
    taught = runs[runs.teacher_key == "older"]
    assert "seed*@0-" in taught.teacher.iloc[0]
    made = metrics_file.text(taught.assign(state="finished", top1=0.5, top5=1.0, validation_top1=0.5))
    assert list(json.loads(made)["corrected"]["digits"]["tiny-32"]) == ["older"]


def test_a_missing_run_is_a_row_without_numbers(tmp_path):
    study = write_study(demo(), tmp_path)
    write_json(study.results / "config.json", study.config.model_dump(exclude_unset=True))
    shutil.rmtree(study.folder(recipe="corrected", teacher="digits-vit-s", train_type="embed-KD", seed=1))
    found = clipkd.results(study.results)
    missing = found[found.state == "missing"]
    assert list(missing.train_type) == ["embed-KD"] * 2
    assert missing[["top1", "seconds_per_epoch", "teacher_passes"]].isna().all(axis=None)


def test_accuracy_is_mean_and_sample_deviation_over_seeds(tables):
    # seeds 0.82 and 0.83: mean 82.5 %, deviation 1 / sqrt(2) points
    row = record(tables, "accuracy-corrected-last-top1", train_type="embed-KD", teacher="digits-vit-s")
    assert float(row["mean_percent"]) == pytest.approx(82.5, rel=1e-12)
    assert float(row["deviation_percent"]) == pytest.approx(0.5**0.5, rel=1e-12)
    assert (row["n"], row["n_asked"], row["epochs"]) == ("2", "2", "4")
    row = record(tables, "accuracy-corrected-selected-top1", train_type="embed-KD", teacher="digits-vit-s")
    assert float(row["mean_percent"]) == pytest.approx(83.0)
    row = record(tables, "accuracy-corrected-last-top5", train_type="embed-KD", teacher="digits-vit-s")
    assert float(row["mean_percent"]) == pytest.approx(98.0)


def test_accuracy_has_teachers_as_rows_and_the_best_in_bold(tables):
    title = "Test accuracy, recipe corrected, last epoch, top-1"
    text = (tables / "accuracy-corrected-last-top1.md").read_text(encoding="utf-8")
    assert text.startswith(f"**{title}**")
    assert line(tables, "accuracy-corrected-last-top1", "Teacher")[:5] == [
        "Teacher",
        "Digits: teacher",
        "Digits: supervised",
        "Digits: vanilla",
        "Digits: teacher-KD",
    ]
    assert line(tables, "accuracy-corrected-last-top1", "Digits ViT-S ") == [
        "Digits ViT-S",
        "95.00",
        "80.50 ± 0.71 (2)",
        "**84.50 ± 0.71 (2)**",
        "78.50 ± 0.71 (2)",
        "82.50 ± 0.71 (2)",
        "81.50 ± 0.71 (2)",
        "82.50 ± 0.71 (2)",
        "79.50 ± 0.71 (2)",
    ]
    assert line(tables, "accuracy-corrected-last-top1", "Digits ViT-XS")[-3:] == ["–", "–", "–"]
    assert "†" not in text


def test_holms_promise_is_that_of_each_list(tables):
    text = (tables / "teacher-matters.md").read_text(encoding="utf-8")
    assert "Where a list has nothing to find, at most 5 % of grids find something in it." in text


def test_best_test_epoch_is_labelled_optimistic(tables):
    for suffix in ("md", "tex", "html"):
        text = (tables / f"accuracy-reference-best-test-top1.{suffix}").read_text(encoding="utf-8")
        assert "best epoch chosen on the test set, as released: optimistic" in text


def test_counts_are_not_rounded():
    assert [count(value) for value in (None, 0.0, 1442.0, 3239, 1442.5)] == ["–", "0", "1,442", "3,239", "1,442.5"]


def test_live_runs_stand_in_the_cost_table_only(tables):
    assert all(row["n"] == "2" for row in records(tables, "accuracy-reference-last-top1"))
    axes = {"train_type": "teacher-KD", "recipe": "reference", "teacher": "digits-vit-s"}
    live = record(tables, "cost", teacher_source="live", **axes)
    cached = record(tables, "cost", teacher_source="cached", **axes)
    # median over epochs (the first takes ten times as long): 2 and 2.5 s cached, 4 s live
    assert float(cached["seconds_per_epoch_mean"]) == 2.25
    assert float(cached["seconds_per_epoch_deviation"]) == pytest.approx(0.5 / 2**0.5)
    assert float(live["seconds_per_epoch_mean"]) == 4.0
    assert float(live["live_to_cached"]) == pytest.approx(4 / 2.25)
    assert (live["teacher_passes_in_run"], cached["teacher_passes_in_run"]) == ("3000.0", "0.0")
    assert (cached["extraction_passes"], cached["extraction_seconds"]) == ("2200", "22.0")
    assert (live["weights_bytes"], cached["weights_bytes"]) == ("9000000.0", "1000000.0")
    assert cached["device"] == "Example CPU, 2 threads"
    assert record(tables, "cost", train_type="supervised", recipe="corrected")["teacher_source"] == "none"
    embed = record(tables, "cost", train_type="embed-KD", recipe="corrected", teacher="digits-vit-s")
    assert embed["extraction_passes"] == "50"


@pytest.mark.parametrize(("live", "is_compared"), [(8, True), (2, False)])
def test_times_of_stacks_are_compared_where_they_are_of_as_many_students(live, is_compared, tmp_path, monkeypatch):
    """A time is one student's share of its stack's: another stack's share says nothing of the teacher."""
    plain = synthetic.cost_of

    def stacked(cell):
        return plain(cell) | {"side_by_side": live if cell.teacher_source == "live" else 8}

    monkeypatch.setattr(synthetic, "cost_of", stacked)
    folder = written(write_study(demo(), tmp_path), "tables")
    row = record(folder, "cost", train_type="teacher-KD", recipe="reference", teacher_source="live")
    assert row["side_by_side"] == str(live)
    assert (row["live_to_cached"] != "") == is_compared
    text = (folder / "cost.md").read_text(encoding="utf-8")
    assert "students at once" in text
    assert "Seconds are then one student's share" in text
    resources = (folder / "resources.md").read_text(encoding="utf-8")
    assert ("× less time per epoch than" in resources) == is_compared
    assert "embed-KD takes 9.00 × less memory for weights" in resources


def test_resources_tell_published_from_measured(tables):
    rows = records(tables, "resources")
    assert [row["source"] for row in rows[:4]] == ["published"] * 4
    assert {row["source"] for row in rows[4:]} == {"measured"}
    assert (rows[0]["weights_gb"], rows[0]["accuracy_percent"]) == ("1.235", "51.5")
    assert float(rows[1]["seconds_per_epoch_low"]) == pytest.approx(57.6)
    assert float(rows[1]["seconds_per_epoch_high"]) == pytest.approx(72.0)
    assert {row["train_type"] for row in rows} == {"teacher-KD", "embed-KD"}
    assert {row["hardware"] for row in rows[4:]} == {"Example CPU, 2 threads"}
    text = (tables / "resources.md").read_text(encoding="utf-8")
    # memory 9 MB live against 1 MB; 4 s against 2.25 s
    assert "embed-KD takes 9.00 × less memory for weights and 1.78 × less time per epoch" in text


def test_cosine_between_classes_is_the_mean_over_pairs_of_two_classes():
    prototypes = np.random.default_rng(0).normal(size=(4, 3, 5))

    def cosine(first, second):
        return first @ second / (first @ first) ** 0.5 / (second @ second) ** 0.5

    pairs = [
        cosine(prototypes[a, p], prototypes[b, q])
        for a, b in itertools.permutations(range(4), 2)
        for p, q in itertools.product(range(3), repeat=2)
    ]
    assert class_cosine(prototypes) == pytest.approx(sum(pairs) / len(pairs))
    assert class_cosine(np.eye(6, 9)) == pytest.approx(0)
    assert class_cosine(np.ones((3, 4), np.float32)) == pytest.approx(1)


def test_teachers_table(tables):
    row = record(tables, "teachers", teacher="digits-vit-s", recipe="corrected")
    assert (row["parameters"], row["test_accuracy_percent"], row["head"]) == ("2000000", "96.0", "linear probe")
    assert (row["full_passes"], row["sample_passes"]) == ("2200", "50")
    assert int(row["full_disk_bytes"]) > 200 * 16 * 2


def test_a_teacher_of_embed_kd_only_has_no_probe(tmp_path):
    config = demo()
    config["grid"] = [config["grid"][0] | {"train_types": ["supervised", "embed-KD"]}]
    study = write_study(config, tmp_path)
    assert line(written(study, "tables"), "accuracy-corrected-last-top1", "Digits ViT-S ")[1] == "–"


def test_students_become_rows(tmp_path):
    config = demo()
    config["grid"] = [config["grid"][0] | {"students": ["tiny-32", "base-32"]}]
    study = write_study(config, tmp_path, lambda cell: top1(cell) + 0.1 * (cell.student == "base-32"))
    folder = written(study, "tables")
    assert line(folder, "accuracy-corrected-last-top1", "Digits ViT-S | base-32")[3:5] == [
        "90.50 ± 0.71 (2)",
        "**94.50 ± 0.71 (2)**",
    ]
    # Each student has a best one of its own.
    assert line(folder, "accuracy-corrected-last-top1", "Digits ViT-S | tiny-32")[4] == "**84.50 ± 0.71 (2)**"


def test_missing_runs_are_refused_or_marked(tmp_path, capsys):
    study = write_study(demo(), tmp_path)
    shutil.rmtree(study.folder(recipe="corrected", teacher="digits-vit-s", train_type="embed-KD", seed=1))
    with pytest.raises(DataError, match="1 of 42 runs are missing"):
        written(study, "refused")
    assert not (study.root / "refused").exists()
    folder = written(study, "partial", partial=True)
    assert capsys.readouterr().err == f"1 of 42 runs are missing below {study.results / 'runs'}\n"
    assert line(folder, "accuracy-corrected-last-top1", "Digits ViT-S ")[5] == "82.00 (1) †"
    assert line(folder, "accuracy-corrected-last-top1", "Digits ViT-XS")[5] == "82.50 ± 0.71 (2)"
    row = record(folder, "accuracy-corrected-last-top1", train_type="embed-KD", teacher="digits-vit-s")
    assert (row["n"], row["n_asked"]) == ("1", "2")
    for stem in table_stems(study.config):
        for suffix in ("md", "tex", "html"):
            text = (folder / f"{stem}.{suffix}").read_text(encoding="utf-8")
            assert "INCOMPLETE: 1 of 42 runs are missing" in text
            assert "digits, tiny-32, teacher digits-vit-s, embed-KD, recipe corrected, seed 1" in text
    words = (folder / "teacher-matters.md").read_text(encoding="utf-8")
    assert "embed-KD is 2.00 points above supervised (n = 1 seed, so no interval)" in words


def test_a_group_without_any_run_is_marked(tmp_path):
    study = write_study(demo(), tmp_path)
    for seed in (0, 1):
        shutil.rmtree(study.folder(recipe="corrected", train_type="supervised", seed=seed))
    folder = written(study, "partial", partial=True)
    assert line(folder, "accuracy-corrected-last-top1", "Digits ViT-S ")[2] == "– †"
    assert record(folder, "accuracy-corrected-last-top1", train_type="supervised")["mean_percent"] == ""


def test_equal_bytes_whatever_the_order(study, tables, tmp_path):
    config = demo()
    for block in config["grid"]:
        block["seeds"] = block["seeds"][::-1]
    shuffled = Study(Config.model_validate(config), tmp_path)
    cells = shuffled.cells
    random.Random(1).shuffle(cells)
    for cell in cells:
        write_run(cell, shuffled, top1(cell))
    write_tables(shuffled.config, shuffled.results, study.data, tmp_path / "tables")
    assert contents(tmp_path / "tables") == contents(tables)


@pytest.mark.slow
def test_equal_bytes_in_any_locale_and_without_torch(study, tables, tmp_path):
    code = (
        "import json, sys; from pathlib import Path; from clipkd.tables import write_tables;"
        "from clipkd.spec.settings import Config; c, r, d, o = sys.argv[1:];"
        "write_tables(Config.model_validate_json(c), Path(r), Path(d), Path(o));"
        "assert not {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )

    arguments = [study.config.model_dump_json(), str(study.results), str(study.data), str(tmp_path / "tables")]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=environment)
    assert contents(tmp_path / "tables") == contents(tables)


@pytest.mark.slow
def test_a_tracking_service_gets_every_table_and_may_fail(tmp_path, monkeypatch, capsys):
    """A package that writes down what it is asked for: nothing before the variable is set, then each file as it is."""
    study, sent = write_study(small(), tmp_path / "study"), {}
    begun: list[tuple[str, str]] = []
    is_away = False

    class Run:
        def log_artifact(self, path: Path, type: str) -> None:
            if is_away:
                raise OSError("the service is away")
            sent[path.name] = path.read_bytes()

        def finish(self) -> None:
            pass

    service = types.ModuleType("trackio")
    service.init = lambda project, name, **more: begun.append((project, name)) or Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", service)
    (study.root / "grid.json").write_text(study.config.model_dump_json(exclude_unset=True))
    words = ["tables", "--config", study.root / "grid.json", "--results", study.results, "--data", study.data]
    words += ["--output", tmp_path / "out", "--summary", tmp_path / "summary.json"]
    assert main([str(word) for word in words]) == 0
    assert (begun, sent) == ([], {})
    monkeypatch.setenv("CLIPKD_TRACKIO", "digits")
    assert main([str(word) for word in words]) == 0
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(expected) == len(table_files(study.config)) > 20
    assert sent == expected | {"summary.json": (tmp_path / "summary.json").read_bytes()}
    assert "trackio failed" not in capsys.readouterr().err
    sent.clear()
    is_away = True
    assert main([str(word) for word in words]) == 0
    assert sent == {}
    assert len(set(begun)) == 1, "the second is a new version of the first"
    assert begun[0][0] == "digits"
    assert begun[0][1].startswith("tables-")
    assert "trackio failed (OSError: the service is away)" in capsys.readouterr().err


def test_names_come_without_heavy_imports(study):

    code = (
        "import json, sys; from clipkd.tables import table_stems, report_entry as a;"
        "from clipkd.report.figures import figure_stems, report_entry as b; from clipkd.spec.settings import Config;"
        "c = Config.model_validate_json(sys.argv[1]);"
        "[a(s) for s in table_stems(c)]; [b(s) for s in figure_stems(c)];"
        "print({'torch', 'matplotlib', 'pandas', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, study.config.model_dump_json()]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


def test_train_types_far_below_training_without_a_teacher_are_told_to_train_longer(tmp_path):
    config = demo()
    config["grid"] = [config["grid"][0] | {"recipes": ["corrected"]}]

    def notes(points: float) -> list[str]:
        study = write_study(config, tmp_path / str(points), lambda cell: 0.8 - points * (cell.train_type == "vanilla"))
        made = teacher_matters.table(Results.collect(study.config, study.results / "runs", study.data))
        return [note for note in made.notes if "train longer" in note]

    assert notes(0.03) == []
    (note,) = notes(0.07)
    assert note.startswith("vanilla: 5 points or more below training without a teacher.")
