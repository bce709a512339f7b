"""The figures: they show the tables' numbers, say what is missing, and are equal on every run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.text import Text
from PIL import Image

from clipkd.core.artifacts import read_manifest, write_manifest
from clipkd.core.errors import DataError
from clipkd.report.figures import (
    FORMATS,
    accuracy,
    cost,
    embeddings,
    figure_stems,
    learning_curves,
    report_entry,
    resources,
)
from clipkd.report.figures.style import DPI, legend, new_figure, save, styled
from clipkd.report.figures.write import write_figures
from clipkd.runs.record import Environment
from clipkd.spec.settings import Config
from clipkd.tables.costs import costs
from clipkd.tables.grouping import rows_of
from clipkd.tables.results import Results, where
from tests.synthetic import Study, demo, write_study


def small() -> dict:
    """Return the demo with one recipe and teacher: few figures, each kind among them."""
    config = demo()
    for block in config["grid"]:
        block |= {"recipes": ["corrected"], "teachers": ["digits-vit-s"]}
    return config


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return write_study(small(), tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def figures(study) -> Path:
    write_figures(study.config, study.results, study.data, study.root / "figures")
    return study.root / "figures"


def texts(figure) -> list[str]:
    """Return every text of a figure, as it is drawn."""
    figure.draw_without_rendering()
    return [found.get_text() for found in figure.findobj(Text) if found.get_text() and found.get_visible()]


def results(study: Study, partial: bool = False) -> Results:
    return Results.collect(study.config, study.results / "runs", study.data, partial)


def test_names_and_categories():
    stems = figure_stems(Config.model_validate(demo()))
    assert stems == [
        "accuracy-digits",
        "learning-curves-reference-digits-tiny-32",
        "learning-curves-corrected-digits-tiny-32",
        "embeddings-digits",
        "cost",
        "resources",
    ]
    # Nothing published belongs beside a grid that has neither the paper's data nor its code's mathematics.
    assert figure_stems(Config.model_validate(small())) == [
        stem for stem in stems if "reference" not in stem and stem != "resources"
    ]
    entries = [report_entry(stem) for stem in stems]
    categories = [entry["category"] for entry in entries]
    assert categories == ["Accuracy", "Accuracy", "Accuracy", "Embeddings", "Cost", "Cost"]
    assert len({entry["labels"]["figure"] for entry in entries}) == len(stems)
    captions = Path(__file__).parents[2] / "workflow/report"
    assert all((captions / f"{entry['caption']}.rst").is_file() for entry in entries)


def test_names_that_hold_a_dash_give_each_figure_a_file():
    """Recipe `flip` with dataset `more-photos`, recipe `flip-more` with dataset `photos`."""
    config = small()
    config["recipes"] = {name: {"base": "corrected"} for name in ("flip", "flip-more")}
    config["sources"] = dict.fromkeys(("photos", "more-photos"), ".")
    axes = {"datasets": ["photos", "more-photos"], "recipes": ["flip", "flip-more"], "train_types": ["supervised"]}
    config["grid"] = [config["grid"][0] | axes]
    stems = figure_stems(Config.model_validate(config))
    assert sorted(stem for stem in stems if stem.startswith("learning-curves-flip-more-")) == [
        "learning-curves-flip-more-more-photos-tiny-32",
        "learning-curves-flip-more-photos-tiny-32",
        "learning-curves-flip-more-photos-tiny-32-2",
    ]


@pytest.mark.slow
def test_every_figure_is_drawn(study, figures):
    names = {path.name for path in figures.iterdir()}
    assert names == {f"{stem}.{suffix}" for stem in figure_stems(study.config) for suffix in FORMATS}
    for path in figures.glob("*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[1] >= 800
        assert 0.005 < (pixels < 200).mean() < 0.5
    for path in figures.glob("*.svg"):
        assert path.stat().st_size > 10_000
        assert "<dc:date>" not in path.read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.slow
def test_equal_bytes_on_a_rerun(study, figures):
    before = rcParams["font.size"]
    rcParams["font.size"] = 30  # somebody else's setting
    try:
        write_figures(study.config, study.results, study.data, study.root / "again")
        assert rcParams["font.size"] == 30
    finally:
        rcParams["font.size"] = before
    for path in figures.iterdir():
        assert (study.root / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_accuracy_figure_shows_the_tables_numbers(study):
    drawn = accuracy.draw(results(study), "digits")
    found = texts(drawn)
    assert "83.0 ± 0.7 (2)" in found  # embed-KD, validation-selected: 0.825 and 0.835
    assert "teacher Digits ViT-S" in found
    chance = [line for line in drawn.axes[0].lines if line.get_linestyle() == ":"]
    assert list(chance[0].get_xdata()) == [10, 10]
    widths = sorted({round(patch.get_width(), 6) for patch in drawn.axes[0].patches})
    assert widths == [79.0, 80.0, 81.0, 82.0, 83.0, 85.0]


def test_learning_curves_are_means_over_seeds(study):
    drawn = learning_curves.draw(results(study), "corrected", "digits", "tiny-32")
    curves = [line.get_ydata() for line in drawn.axes[0].lines]
    expected = 100 * 0.805 * (1 - 0.5 ** np.arange(1, 5))  # supervised comes first: 0.80 and 0.81
    np.testing.assert_allclose(curves[0], expected)
    assert "validation top-1 (%)" in texts(drawn)


def test_cost_figure_scales_live_passes_to_a_whole_run(study):
    found = texts(cost.draw(results(study)))
    assert "4,000 in 4 epochs" in found  # 1000 images an epoch, measured over 3 epochs
    assert "2,200" in found
    assert "4 s (1.8 ×)" in found


def test_cost_figure_counts_the_passes_for_stored_random_views(study):
    rows = costs(results(study))
    replayed = {row.train_type: row._replace(teacher_source="replayed") for row in rows_of(rows)}
    assert cost.passes_of(replayed["vanilla"]) == 2200
    assert cost.passes_of(replayed["supervised"]) == 0


def test_resources_figure_shows_published_beside_measured(study):
    found = texts(resources.draw(results(study)))
    assert {"1.235", "58 to 72", "51.5", "0.009"} <= set(found)
    assert any(text.startswith("published (arXiv 2404.06170)") for text in found)
    assert any(text.startswith("measured: teacher Digits ViT-S; Example CPU") for text in found)


def test_projection_puts_prototypes_among_their_class(study):
    found = results(study)
    cloud = embeddings.cloud_of(found, where(found.cells, teacher="digits-vit-s"))
    assert cloud.what == "test images, recipe corrected"
    plane = embeddings.project(np.concatenate([cloud.vectors, cloud.prototypes]).astype(np.float32))
    dots, stars = plane[: len(cloud.labels)], plane[len(cloud.labels) :]
    nearest = np.linalg.norm(dots[:, None] - stars[None], axis=2).argmin(axis=1)
    assert (nearest == cloud.labels).mean() > 0.9


def test_a_teacher_without_vectors_of_test_images_is_drawn_by_those_of_its_prototypes(tmp_path):
    """Of imported vectors, those of the test images may be missing."""
    study = write_study(small(), tmp_path)
    for path in study.data.glob("embeddings/digits/digits-vit-s/*/manifest.json"):
        found = read_manifest(path.parent)
        found["files"].pop("test.npy", None)
        write_manifest(path.parent, *(found[key] for key in ("kind", "identity", "facts", "files")))
    read = results(study)
    cloud = embeddings.cloud_of(read, where(read.cells, teacher="digits-vit-s"))
    assert cloud.what == "training images of the prototypes, recipe corrected"


def test_a_class_name_is_text_not_mathematics():
    figure, name = new_figure(3, 3, "classes"), r"US$ \frac$"
    cloud = embeddings.Cloud(np.eye(8, 4), np.arange(8) % 2, None, "test images")
    embeddings.panel(figure.subplots(), cloud, {0: name, 1: "b"})
    assert name in texts(figure)


def test_a_damaged_array_is_refused(tmp_path):
    study = write_study(small(), tmp_path)
    path = next(study.data.glob("embeddings/digits/digits-vit-s/*/test.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test.npy is damaged"):
        write_figures(study.config, study.results, study.data, tmp_path / "figures")


@pytest.fixture(scope="module")
def holed(tmp_path_factory) -> Study:
    """A study in which a run is missing."""
    study = write_study(small(), tmp_path_factory.mktemp("holed"))
    shutil.rmtree(study.folder(train_type="vanilla", teacher="digits-vit-s", seed=0))
    return study


def test_missing_runs_are_marked(holed, tmp_path):
    with pytest.raises(DataError, match="1 of 16 runs are missing"):
        write_figures(holed.config, holed.results, holed.data, tmp_path / "figures")
    found = results(holed, partial=True)
    with styled():
        drawn = accuracy.draw(found, "digits")
        save(drawn, tmp_path, "accuracy", found.gaps())
    assert "85.5 (1) †" in texts(drawn)
    assert any("INCOMPLETE: 1 of 16 runs are missing" in text for text in texts(drawn))


@pytest.mark.long
@pytest.mark.slow
def test_a_missing_dataset_is_marked_where_that_was_asked_for(study, tmp_path):
    """As on a machine that got the runs alone: all else is drawn."""
    data = tmp_path / "data"
    shutil.copytree(study.data, data)
    shutil.rmtree(data / "datasets")
    with pytest.raises(DataError, match=r"no dataset at .*datasets/digits: .*add `--partial`"):
        write_figures(study.config, study.results, data, tmp_path / "figures")
    write_figures(study.config, study.results, data, tmp_path / "figures", partial=True)
    found = Results.collect(study.config, study.results / "runs", data, partial=True)
    assert any("no stored dataset †" in text for text in texts(embeddings.draw(found, "digits")))


def outside(figure) -> list[str]:
    """Return the titles and legends that reach out of a figure, at the resolution of its PNG."""
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    legends = [text for one in figure.legends for text in (one.get_title(), *one.get_texts())]
    found = [*figure.texts, *([figure._suptitle] if figure._suptitle else []), *legends]
    edge, renderer = figure.bbox, figure.canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in found if text.get_text()]
    return [text for text, box in boxes if box.x0 < 0 or box.x1 > edge.x1 or box.y0 < 0 or box.y1 > edge.y1]


def test_no_text_is_cut_off_at_the_edge_of_a_narrow_figure(holed, tmp_path):
    found, title = results(holed, partial=True), "A title of many words for a figure that is as narrow as this one"
    with styled():
        narrow = new_figure(3, 3, title)
        legend(narrow, [], "what the dots mean; what the stars mean; what the axes mean; and that is all")
        for drawn in (
            embeddings.draw(found, "digits"),
            learning_curves.draw(found, "corrected", "digits", "tiny-32"),
            narrow,
        ):
            save(drawn, tmp_path, "figure", found.gaps())
            assert outside(drawn) == []
        control = new_figure(3, 3, "short")
        control.suptitle(title)
        assert outside(control) != []


def noted(study: Study, kind: str) -> Results:
    """Return results with a long note, or one that says nothing is wrong."""
    config = study.config.model_copy(update={"evaluation": ["calibration"]} if kind == "not evaluated" else {})
    found = Results.collect(config, study.results / "runs", study.data, partial=True)
    for cell, run in found.runs.items():
        name = "Another example CPU" if kind == "ways" and cell.seed else "Example CPU"
        told = {"packages": {"torch": "2.13.0"}, "device": {"kind": "cpu", "name": name}}
        found.runs[cell] = replace(run, environment=Environment.model_validate(told))
    if kind == "without labels":
        return replace(found, cells=(*found.cells, replace(found.cells[0], labels="none")))
    return found


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("not evaluated", "INCOMPLETE: 14 runs are not evaluated."),
        ("ways", "NOT COMPARABLE to the last digit: these runs were made in 2 ways."),
        ("without labels", None),
    ],
)
def test_a_figure_carries_one_sentence_of_what_is_wrong_and_is_higher_by_it(kind, said, study, tmp_path):
    found = noted(study, kind)
    heights = []
    with styled():
        for gaps in ([], found.gaps()):
            drawn = cost.draw(found)
            save(drawn, tmp_path, "cost", gaps)
            heights.append([axes.get_position().height * drawn.get_figheight() for axes in drawn.axes])
            title = drawn.get_suptitle()
    assert title.replace("\n", " ") == f"Cost of training one student{f' {said}' if said else ''}"
    np.testing.assert_allclose(heights[1], heights[0], atol=0.05)
    notes = [*found.gaps(), *found.remarks()]
    assert any(line.startswith(said or "Runs trained without labels") for line in notes)


def test_a_way_of_computing_is_written_out_once(study):
    (note,) = noted(study, "ways").gaps()
    assert note.count("Another example CPU") == 1
    assert "(1) torch 2.13.0 on Another example CPU, 2 threads: 7 runs; (2) torch 2.13.0 on Example CPU" in note
    assert "embed-KD, recipe corrected (1 in way 1, 1 in way 2);" in note


def test_the_first_row_keeps_clear_of_the_panels_title(tmp_path):
    study = write_study(small(), tmp_path)
    for seed in (0, 1):
        shutil.rmtree(study.folder(train_type="supervised", recipe="corrected", seed=seed))
    axes = cost.draw(results(study, partial=True)).axes[0]
    assert axes.get_ylim() == (len(axes.get_yticks()) - 0.4, -0.6)  # the first on top
