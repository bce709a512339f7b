"""What the classes are called: in predictions, in exports, and in both where only the user of a student says so."""

from __future__ import annotations

import json

import numpy as np

import clipkd as package

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_predictions_take_the_names_that_are_given(run_folder, scans, here, tmp_path):
    (tmp_path / "words.yaml").write_text("\n".join(f"{number}: {word}" for number, word in enumerate(WORDS)))
    plain = json.loads(here("predict", run_folder, *scans, "--format", "json").stdout)
    named = json.loads(here("predict", run_folder, *scans, "--format", "json", "--class-names", "words.yaml").stdout)
    labels = [[one["class"] for one in image["predictions"]] for image in plain]
    assert len({label for image in labels for label in image}) > 5, "the digits themselves, as the dataset names them"
    assert [[one["class"] for one in image["predictions"]] for image in named] == [
        [WORDS[int(label)] for label in image] for image in labels
    ]


def test_names_of_other_classes_are_refused(run_folder, scans, here):
    done = here("predict", run_folder, scans[0], "--class-names", '["zero", "one"]')
    assert done.returncode == 2
    assert "--class-names: a list of 2 names, but there are 10 classes" in done.stderr
    assert "Traceback" not in done.stderr
    done = here("predict", run_folder, scans[0], "--class-names", '["a", "b"]', "--add-class", "zebra")
    assert (done.returncode, "drop --class-names" in done.stderr) == (2, True)


def test_an_export_keeps_the_names(run_folder, scans, here, tmp_path):
    words = json.dumps(WORDS)
    assert here("export", run_folder, "out", "--format", "hf", "--class-names", words).returncode == 0
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["label_names"] == WORDS
    assert config["clipkd"]["classes"] == [str(number) for number in range(10)]
    model, run = package.load(tmp_path / "out", "cpu"), package.load(run_folder, "cpu")
    assert model.names == WORDS
    assert [one[0].label for one in model.predict(scans)] == [WORDS[int(one[0].label)] for one in run.predict(scans)]
    np.testing.assert_allclose(model.probabilities(scans), run.probabilities(scans), atol=1e-6)
    assert "zero, one, two" in (tmp_path / "out/README.md").read_text()
