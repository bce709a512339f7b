"""Evaluations of runs: whose they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from clipkd.core.artifacts import read_manifest, write_manifest
from clipkd.core.files import write_json
from clipkd.core.fingerprint import digest
from clipkd.report.figures import confusion as confusion_figure
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.tables.evaluation import table
from clipkd.tables.measured import evaluation_of, file_of
from clipkd.tables.results import Results
from clipkd.workflow import evaluations
from tests.synthetic import CONTENT, Study, demo, write_study


def evaluation(study: Study, cell: Cell) -> dict[str, Any]:
    """Return the content of a run's evaluation of which nothing is measured."""
    files = read_manifest(study.results / "runs" / cell.folder)["files"]
    return {
        "format": 1,
        "fingerprint": "f",
        "student": digest({name: entry["sha256"] for name, entry in files.items()}),
        "trained": {},
        "dataset": cell.dataset,
        "dataset_content": CONTENT,
        "test_images": 10,
        "score": None,
        "measures": {},
        "not_measured": {},
    }


@pytest.mark.parametrize(("key", "value"), [("student", "0" * 64), ("dataset_content", "0" * 64)])
def test_an_evaluation_of_another_student_or_of_other_images_is_not_the_runs(key, value, tmp_path):
    """`clipkd evaluate --data ELSEWHERE` may have found a dataset of the same name there."""
    config = demo()
    config["grid"] = config["grid"][:1]
    study = write_study(config, tmp_path)
    cell = study.cells[0]
    knn = {"protocol": 1, "numbers": {"top1": 0.5}, "details": {}, "clipkd": "1", "torch": "1"}
    knn |= {"device": {"kind": "cpu", "name": "a processor", "threads": 1}}
    found = evaluation(study, cell) | {"measures": {"knn": knn}}
    write_json(file_of(cell, study.results), found)
    assert evaluation_of(cell, study.results, ["knn"]).measures["knn"].numbers == {"top1": 0.5}
    assert evaluation_of(cell, study.results, ["knn", "probe"]) is None
    write_json(file_of(cell, study.results), found | {key: value})
    assert evaluation_of(cell, study.results, ["knn"]) is None


def test_what_was_not_measured_for_want_of_a_store_is_measured_when_the_grid_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = demo() | {"evaluation": ["agreement"]}
    config["grid"] = config["grid"][:1]
    study = write_study(config, Path())
    layout, protocols = Layout.of(study.config), {"agreement": 2}
    planned = evaluations.stamps(study.cells, protocols, study.config, layout)
    stamp, cell = next((stamp, cell) for stamp, cell in planned.items() if cell.train_type == "embed-KD")
    write_json(file_of(cell, study.results), evaluation(study, cell) | {"not_measured": {"agreement": "no store"}})
    store = layout.full_embeddings(cell).folder / "manifest.json"
    written = file_of(cell, study.results).stat().st_mtime

    def is_done(made: set[str]) -> bool:
        evaluations.settle({stamp: cell}, protocols, layout, made)
        return Path(stamp).exists()

    os.utime(store, (written - 1, written - 1))
    assert is_done(made=set()), "it was there, and did not help"
    os.utime(store, (written + 1, written + 1))
    assert not is_done(made=set()), "it came later"
    store.unlink()
    assert is_done(made=set()), "nobody makes it"
    assert not is_done(made={store.parent.as_posix()})


def test_what_was_measured_in_several_ways_is_said(tmp_path):
    config = demo() | {"evaluation": ["speed", "agreement"]}
    config["grid"] = [config["grid"][0] | {"train_types": ["supervised", "embed-KD"], "seeds": [0, 1]}]
    study = write_study(config, tmp_path)

    def note(protocols: list[int], names: list[str]) -> list[str]:
        for cell in study.cells:
            processor = {"kind": "cpu", "name": names[cell.seed], "threads": 1}
            device = {"kind": "cuda", "name": f"GPU {cell.seed}", "threads": 1}  # speed is always of the CPU
            common = {"details": {}, "clipkd": "1", "torch": "1", "device": device}
            speed = common | {"protocol": 2, "numbers": {"torch_ms_1": 1.0}, "details": {"processor": processor}}
            agreement = common | {"protocol": protocols[cell.seed], "numbers": {"kl": 1.0}}
            measures = {"speed": speed, "agreement": agreement}
            write_json(file_of(cell, study.results), evaluation(study, cell) | {"measures": measures})
        results = Results.collect(study.config, study.results / "runs", study.data)
        return [line for line in table(results).notes if line.startswith("MIXED")]

    assert note([2, 2], ["A", "A"]) == []
    (mixed,) = note([1, 2], ["A", "A"])
    assert "agreement was measured by the protocols 1 and 2" in mixed
    (mixed,) = note([2, 2], ["A", "B"])
    assert "speed was measured on several machines: A, 1 thread; B, 1 thread" in mixed


def test_what_the_config_does_not_ask_for_is_not_missed(tmp_path):
    """Somebody gave `clipkd evaluate RUN --measures agreement,knn` by hand."""
    config = demo() | {"evaluation": ["knn"]}
    config["grid"] = [config["grid"][0] | {"train_types": ["supervised"], "recipes": ["corrected"]}]
    study = write_study(config, tmp_path)
    for cell in study.cells:
        why = {"agreement": "it has no teacher", "knn": "no store"}
        write_json(file_of(cell, study.results), evaluation(study, cell) | {"not_measured": why})
    notes = table(Results.collect(study.config, study.results / "runs", study.data)).notes
    missed = [line for line in notes if line.startswith("Not measured")]
    assert missed == ["Not measured: knn of supervised: no store (2 runs)."]


def test_the_confusion_of_classes_is_drawn_in_their_order_with_the_names_that_the_config_gives(tmp_path):
    """The dataset begins with 9; an evaluation's file is sorted by name."""
    names = [f"number {digit}" for digit in reversed(range(10))]
    config = demo() | {"evaluation": ["classes"], "class_names": {"digits": names}}
    config["grid"] = [config["grid"][0] | {"train_types": ["supervised"], "recipes": ["corrected"]}]
    study = write_study(config, tmp_path)
    confusion = {str(digit): {str(digit): 1} for digit in range(10)}
    device = {"kind": "cpu", "name": "a processor", "threads": 1}
    found = {"protocol": 1, "numbers": {}, "details": {"confusion": confusion}, "clipkd": "1", "torch": "1"}
    for cell in study.cells:
        measures = {"classes": found | {"device": device}}
        write_json(file_of(cell, study.results), evaluation(study, cell) | {"measures": measures})
    results = Results.collect(study.config, study.results / "runs", study.data)

    def drawn() -> list[str]:
        (axes, *_) = confusion_figure.draw(results, "corrected", "digits", "tiny-32").axes
        return [label.get_text() for label in axes.get_yticklabels()]

    assert drawn() == list("0123456789"), "a list of names means nothing without the dataset's order"
    folder = results.teachers.layout.dataset(study.cells[0].dataset_spec)
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, "dataset", {}, {"classes": list("9876543210")}, {})
    assert drawn() == names
