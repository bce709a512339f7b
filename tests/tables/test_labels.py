"""The table and figure of accuracy by number of labels; no table has a column for it where all labels are seen."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

import pytest
from scipy import stats

from clipkd.core.artifacts import read_manifest, write_manifest
from clipkd.report import page_tables
from clipkd.report.figures import by_labels as figure
from clipkd.report.figures import figure_stems
from clipkd.report.figures.style import styled
from clipkd.spec.config import load
from clipkd.spec.layout import Layout
from clipkd.tables import accuracy, by_labels, comparisons, cost, table_stems, teacher_matters, teachers
from clipkd.tables.results import Results
from clipkd.tables.terms import MARK
from tests.synthetic import demo, write_study

CONFIGS = Path(__file__).parents[2] / "config"
SEEDS = [0, 1, 2]
JITTER = {0: 0.0, 1: 0.012, 2: 0.004}
LEVEL = {100: 0.6, "all": 0.8}


def level(cell) -> float:
    helped, turn = {"supervised": (0.0, 1), "vanilla": (0.07, 2), "embed-KD": (0.001, 0)}[cell.train_type]
    return LEVEL[cell.labels] + helped + JITTER[cell.seed * turn % 3 if turn else 2 - cell.seed]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Results:
    config = demo()
    (block,) = config["grid"][:1]
    block |= {"recipes": ["corrected"], "teachers": ["digits-vit-s"], "seeds": SEEDS, "labels": [100, "all"]}
    config["grid"] = [block | {"train_types": ["supervised", "vanilla", "embed-KD"]}]
    study = write_study(config, tmp_path_factory.mktemp("labels"), level)
    return Results.collect(study.config, study.results / "runs", study.data)


def test_each_train_type_stands_beside_supervised_on_the_same_labels(results):
    found = {(row["labels"], row["train_type"]): row for row in by_labels.table(results).records}
    assert len(found) == 6
    for labels in LEVEL:
        cells = {(cell.train_type, cell.seed): level(cell) for cell in results.cells if cell.labels == labels}
        differences = [100 * (cells["vanilla", seed] - cells["supervised", seed]) for seed in SEEDS]
        half = stats.t.ppf(0.975, 2) * statistics.stdev(differences) / 3**0.5
        row = found[str(labels), "vanilla"]
        assert row["difference_points"] == pytest.approx(statistics.mean(differences))
        assert row["shown_from_points"] == pytest.approx(half)
        assert (row["low_points"], row["high_points"]) == pytest.approx(
            (statistics.mean(differences) - half, statistics.mean(differences) + half)
        )
        assert found[str(labels), "supervised"]["difference_points"] is None
    few = found["100", "vanilla"]
    assert (few["validation_labels"], few["training_labels_per_class"], few["probe_percent"]) == pytest.approx(
        (20, 8, 95)
    )
    assert any("a linear probe of its embeddings" in note for note in by_labels.table(results).notes)
    # Each seed has a probe of its own on few labels; all labels make one, which all seeds share.
    assert few["probe_deviation_percent"] == pytest.approx(0)
    assert found["all", "vanilla"]["probe_deviation_percent"] is None


def test_runs_that_are_missing_hold_out_no_known_number_of_labels(results, tmp_path):
    found = Results.collect(results.config, tmp_path / "runs", tmp_path, partial=True)
    made = by_labels.table(found)
    column = [one.title for one in made.columns].index("of these, validation")
    assert {row[column].text for row in made.rows} == {"–"}
    assert {row["validation_labels"] for row in made.records} == {None}
    assert any("and the epoch if they are 100 or more" in note for note in made.notes)


def test_a_teacher_that_saw_all_labels_is_named_wherever_its_students_are_compared(results):
    said = "was trained with all labels of Digits: what its students learn from it is not the result of few labels."
    tables = [by_labels.table(results), teacher_matters.table(results)]
    for made in [*tables, accuracy.table(results, "corrected", "last", "top1")]:
        assert sum(said in note for note in made.notes) == 1


def test_the_page_s_comparisons_say_of_how_many_labels_they_are(results):
    table = page_tables.comparisons_table(results, comparisons.comparisons(results)[0])
    place = [column.title for column in table.columns].index("Labels")
    assert {row[place].text for row in table.rows} == {"100", "all"}


def test_the_figure_has_a_line_for_each_train_type_and_the_probe(results):
    assert "labels-digits" in figure_stems(results.config)
    with styled():
        (axes,) = figure.draw(results, "digits").axes
    lines = {tuple(round(y, 6) for y in line.lines[0].get_ydata()) for line in axes.containers}
    # With 20 validation images the last epoch is compared.
    middle = statistics.mean(JITTER.values())
    means = {
        tuple(round(100 * (LEVEL[labels] + helped + middle), 6) for labels in LEVEL) for helped in (0, 0.07, 0.001)
    }
    assert lines == means | {(95.0, 95.0)}
    assert axes.get_xscale() == "log"


def test_a_teacher_of_each_seed_has_its_rows_and_its_own_classifier(tmp_path):
    """`seed*`: a row of the table of teachers for each, and no word of a probe that nobody fitted."""
    config = load([CONFIGS / "config.yaml", CONFIGS / "demo.yaml"]).model_dump(exclude_none=True)
    config |= {"grid": config["grid"][:2], "training": config["training"] | {"precision": "fp32"}}
    study = write_study(config, tmp_path, lambda cell: 0.5 + JITTER[cell.seed % 3])
    found = Results.collect(study.config, study.results / "runs", study.data)
    records = teachers.table(found).records
    assert [record["seed"] for record in records] == [0, 1, 2, 3, 4]
    assert len({row[1].text for row in teachers.table(found).rows}) == 5
    assert any("a teacher of its own, extraction is that of the first seed" in line for line in cost.table(found).notes)
    notes = "\n".join(by_labels.table(found).notes)
    assert "whatever labels it was trained with" in notes
    assert "probe of its embeddings" not in notes
    with styled():
        drawn = figure.draw(found, "digits")
    low, high = drawn.axes[0].get_xlim()
    assert low < 100 / 1.3 < 100 * 1.3 < high  # points of a single number of labels lie near its tick
    assert "the teacher's own classifier" in {text.get_text() for text in drawn.legends[0].get_texts()}


def test_teachers_of_each_seed_are_several_with_all_labels_too(tmp_path):
    config = load([CONFIGS / "config.yaml", CONFIGS / "demo.yaml"]).model_dump(exclude_none=True)
    few, teachers_of_few = config["grid"][:2]
    grid = [few | {"labels": [100, "all"]}, teachers_of_few]
    config |= {"grid": grid, "training": config["training"] | {"precision": "fp32"}}
    study = write_study(config, tmp_path, lambda cell: 0.5 + JITTER[cell.seed % 3])
    found = by_labels.by_labels(Results.collect(study.config, study.results / "runs", study.data))
    heads = found[found.train_type == "vanilla"].set_index("labels")[f"{by_labels.HEAD}_n"]
    assert dict(heads) == {"100": 5, "all": 5}


def test_nothing_speaks_of_labels_where_all_are_seen(tmp_path):
    study = write_study(demo(), tmp_path)
    found = Results.collect(study.config, study.results / "runs", study.data)
    assert "labels" not in table_stems(study.config)
    assert not {"labels", "labelled_images"} & set(found.every_run.columns)


def few(tmp_path, heads: dict[int, float]) -> Results:
    """Return runs with few labels: three seeds of `vanilla`, one of `DKD`; and each seed's probe."""
    config = demo()
    common = config["grid"][0] | {"recipes": ["corrected"], "teachers": ["digits-vit-s"], "labels": [100]}
    three = common | {"train_types": ["supervised", "vanilla"], "seeds": SEEDS}
    config["grid"] = [three, common | {"name": "one", "train_types": ["DKD"], "seeds": [0]}]
    study = write_study(config, tmp_path, lambda cell: 0.5)
    for cell in study.cells:
        if cell.train_type == "vanilla":
            folder = Layout.of(study.config, study.data).head(cell)[0]
            if cell.seed not in heads:
                shutil.rmtree(folder)
                continue
            manifest = read_manifest(folder)
            facts = manifest["facts"] | {"accuracy": {"test": heads[cell.seed]}}
            write_manifest(folder, "head", manifest["identity"], facts, manifest["files"])
    return Results.collect(study.config, study.results / "runs", study.data, partial=True)


def test_a_seeds_probe_counts_once_however_many_train_types_it_taught(tmp_path):
    made = accuracy.table(few(tmp_path, {0: 0.6, 1: 0.8, 2: 0.9}), "corrected", "last", "top1")
    assert {round(row["teacher_head_percent"], 6) for row in made.records if row["train_type"] != "supervised"} == {
        round(100 * (0.6 + 0.8 + 0.9) / 3, 6)
    }
    assert [entry.marked for entry in made.rows[0]].count("76.67") == 1


def test_a_mean_of_probes_of_which_one_is_missing_is_marked(tmp_path):
    made = accuracy.table(few(tmp_path, {0: 0.6, 2: 0.9}), "corrected", "last", "top1")
    assert f"75.00{MARK}" in [entry.marked.replace(" ", "") for entry in made.rows[0]]
