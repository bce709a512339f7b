"""Evaluations of runs: whose they are."""

import pytest

from clipkd.core.artifacts import read_manifest
from clipkd.core.files import write_json
from clipkd.core.fingerprint import digest
from clipkd.tables.measured import evaluation_of, file_of
from tests.synthetic import CONTENT, demo, write_study


@pytest.mark.parametrize(("key", "value"), [("student", "0" * 64), ("dataset_content", "0" * 64)])
def test_an_evaluation_of_another_student_or_of_other_images_is_not_the_runs(key, value, tmp_path):
    """`clipkd evaluate --data ELSEWHERE` may have found a dataset of the same name there."""
    config = demo()
    config["grid"] = config["grid"][:1]
    study = write_study(config, tmp_path)
    cell = study.cells[0]
    files = read_manifest(study.results / "runs" / cell.folder)["files"]
    knn = {"protocol": 1, "numbers": {"top1": 0.5}, "details": {}, "clipkd": "1", "torch": "1"}
    found = {
        "format": 1,
        "fingerprint": "f",
        "student": digest({name: entry["sha256"] for name, entry in files.items()}),
        "trained": {},
        "dataset": cell.dataset,
        "dataset_content": CONTENT,
        "test_images": 10,
        "score": None,
        "measures": {"knn": knn | {"device": {"kind": "cpu", "name": "a processor", "threads": 1}}},
        "not_measured": {},
    }
    write_json(file_of(cell, study.results), found)
    assert evaluation_of(cell, study.results, ["knn"]).measures["knn"].numbers == {"top1": 0.5}
    assert evaluation_of(cell, study.results, ["knn", "probe"]) is None
    write_json(file_of(cell, study.results), found | {key: value})
    assert evaluation_of(cell, study.results, ["knn"]) is None
