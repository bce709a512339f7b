"""`clipkd predict` and `clipkd evaluate` as processes."""

from __future__ import annotations

import bz2
import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clipkd as package
from clipkd.cli import options
from clipkd.data import image_files
from clipkd.embeddings import prepare
from clipkd.export.model import FilePrediction, Prediction
from clipkd.export.prediction import CsvWriter, JsonWriter
from clipkd.spec.layout import Layout
from tests.photos import save_photos
from tests.use.conftest import CELL, trained


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_csv_holds_what_the_model_predicts(clipkd, run_folder, scans, tmp_path) -> None:
    """As a process; a file name may hold any character."""
    name = 'a "b", c\n;=1+é.png'
    (tmp_path / name).write_bytes(scans[2].read_bytes())
    paths = [*scans[:2], name]
    answer = clipkd("predict", run_folder, *paths, "--top", "2", "--batch-size", "2")
    assert answer.returncode == 0, answer.stderr
    found = rows(answer.stdout)
    expected = package.load(run_folder).predict(scans[:3], top=2)
    assert [(row["image"], row["rank"], row["class"]) for row in found] == [
        (str(path), str(rank), prediction.label)
        for path, ranked in zip(paths, expected, strict=True)
        for rank, prediction in enumerate(ranked, start=1)
    ]
    probabilities = [prediction.probability for ranked in expected for prediction in ranked]
    assert [float(row["probability"]) for row in found] == pytest.approx(probabilities, abs=2e-5)
    assert "3 images" in answer.stderr


def test_a_spreadsheet_finds_no_formula() -> None:
    text = io.StringIO()
    writer = CsvWriter(text)
    for name in ("=1+1.png", "@a.png", "a=b.png"):
        writer.write(FilePrediction(Path(name), [Prediction("-2+3", 0.5), Prediction("cat", 0.25)]))
    found = rows(text.getvalue())
    assert [row["image"] for row in found[::2]] == ["./=1+1.png", "./@a.png", "a=b.png"]
    assert [row["class"] for row in found] == ["'-2+3", "cat"] * 3


def test_json_has_letters_as_they_are_where_they_can_be_written() -> None:
    shown = []
    for encoding, name in (("utf-8", "a.png"), ("ascii", "a.png"), ("utf-8", "\udce4.png")):  # a name of other bytes
        stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="surrogateescape")
        writer = JsonWriter(stream)
        writer.write(FilePrediction(Path(name), [Prediction("märz", 0.5)]))
        writer.close()
        stream.seek(0)
        shown.append(stream.read())
        assert json.loads(shown[-1])[0]["predictions"][0]["class"] == "märz"
    assert ["märz" in text for text in shown] == [True, False, False]


def test_a_folder_a_list_and_a_file_in_json(here, run_folder, scans, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (scans[0].parent / "notes.txt").write_text("no image")
    options = ["--format", "json", "--output", "out/predictions.json", "--top", "1"]
    answer = here("predict", run_folder, scans[0].parent, "-", *options, stdin=f"{scans[5]}\n\n{scans[4]}\n")
    assert (answer.returncode, answer.stdout) == (0, ""), answer.stderr
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [item["image"] for item in found] == [str(path) for path in [*scans, scans[5], scans[4]]]
    assert found[5]["predictions"] == found[20]["predictions"]
    assert {len(item["predictions"]) for item in found} == {1}


@pytest.fixture
def mixed(scans, tmp_path) -> list[Path]:
    """A good image, one that is cut off, an empty one, one that is no image, and a good one."""
    (tmp_path / "cut.png").write_bytes(scans[0].read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"text")
    return [scans[0], tmp_path / "cut.png", tmp_path / "empty.png", tmp_path / "text.png", scans[1]]


def test_bad_images_are_named_and_counted(here, run_folder, mixed) -> None:
    answer = here("predict", run_folder, *mixed, "--top", "1")
    assert answer.returncode == 0
    assert [row["image"] for row in rows(answer.stdout)] == [str(mixed[0]), str(mixed[4])]
    assert [path for path in mixed[1:4] if f"skipped: {path}" not in answer.stderr] == []
    assert "3 of 5 images could not be read" in answer.stderr
    listed = here("predict", run_folder, "-", "--top", "1", stdin=f"absent.png\n{mixed[4]}\n")
    assert "skipped: image absent.png does not exist" in listed.stderr
    assert answer.stdout.splitlines()[-1] == listed.stdout.splitlines()[-1]  # the others do not shift it
    answer = here("predict", run_folder, *mixed[1:4], "--format", "json")
    assert (answer.returncode, "no image could be read" in answer.stderr) == (3, True), answer.stderr
    assert ["error" in item for item in json.loads(answer.stdout)] == [True] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "x.png"), "nowhere is neither a run folder nor an export"),
        (("RUN", "absent.png"), "image absent.png does not exist"),
        (("RUN", "absent.png", "--output", "empty"), "--output empty: this is a folder"),
        (("RUN", "empty"), "folder empty holds no image"),
        (("RUN", "-"), "standard input lists no image"),
        (("RUN", "x.png", "--top", "0"), "--top"),
        (("RUN",), "IMAGE"),
    ],
)
def test_refused(arguments, message, here, run_folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    answer = here("predict", *(run_folder if part == "RUN" else part for part in arguments))
    assert answer.returncode == 2, answer.stderr
    assert message in answer.stderr


def test_evaluate_knows_what_a_folder_is(here, run_folder, digits_folder) -> None:
    def evaluate(*arguments):
        return here("evaluate", *arguments, "--data", digits_folder)

    score = json.loads((run_folder / "metrics.json").read_text())["selected"]["test"]
    answer = evaluate(run_folder)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"top-1 {score['top1']:.4f}  top-5 {score['top5']:.4f}  loss {score['loss']:.4f} ")
    file = run_folder / "student.safetensors"
    assert evaluate(run_folder, "--dataset", "DIGITS").stdout == answer.stdout
    assert evaluate(file, "--dataset", "digits", "--student", "tiny-32").stdout == answer.stdout
    for arguments, code, message in (
        ((run_folder, "--student", "tiny-32"), 2, "already defines its student; drop --student"),
        ((file, "--dataset", "digits"), 3, "give its architecture with --student"),
        ((file,), 2, "give --dataset"),
    ):
        answer = evaluate(*arguments)
        assert (answer.returncode, message in answer.stderr) == (code, True), answer.stderr
        assert len(answer.stderr.splitlines()) < 8


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_evaluate_finds_what_the_training_found(augment, here, tmp_path) -> None:
    """On images of many sizes, which are resized as the training did it, from thumbnails or not."""
    photos = save_photos(tmp_path / "photos", train=160)
    cell = replace(CELL, dataset="photos", source=f"{photos}?augment={augment}", epochs=1)
    prepare.for_training(cell, Layout(tmp_path / "data"), torch.device("cpu"), 8)
    run = trained(cell, tmp_path / "data", tmp_path / "run")
    assert here("evaluate", run, "--measures", "classes", "--output", "e.json").returncode == 0
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["score"] == pytest.approx(json.loads((run / "metrics.json").read_text())["selected"]["test"], rel=1e-6)
    assert found["measures"]["classes"]["numbers"]["mean_class_accuracy"] == pytest.approx(found["score"]["top1"])


def test_evaluate_on_a_dataset_of_other_classes_is_refused(here, run_folder, tmp_path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / f"{number}.png")
    made = here("download", "pets", "--dataset-source", "pets")
    assert made.returncode == 0, made.stderr
    answer = here("evaluate", run_folder, "--dataset", "pets")
    assert answer.returncode == 2, answer.stderr
    assert "0, 1, 2, 3, 4, ... (10), but" in answer.stderr
    assert "cat, dog" in answer.stderr
    (tmp_path / "zoo").mkdir()
    answer = here("evaluate", run_folder, "--dataset", "pets", "--dataset-source", "zoo")
    assert (answer.returncode, "was packed from" in answer.stderr) == (2, True)
    answer = here("evaluate", run_folder, "--dataset", "pets", "--data", "elsewhere")
    assert "or go to the folder of the student's project, where elsewhere/datasets/pets is" in answer.stderr


def test_a_packed_dataset_is_evaluated_on_whatever_it_was_packed_from(here, run_folder, digits, tmp_path) -> None:
    """USPS of torchvision, here with images of digits: its classes have the digits' names."""
    shown = [Image.fromarray(np.asarray(digits.image("test", row))).resize((16, 16)) for row in range(60)]
    pixels = np.stack([np.asarray(image)[:, :, 0].clip(0, 254) for image in shown])
    numbers = [int(number) for number in digits.test_labels[:60]]
    values = (pixels.reshape(60, -1) + 0.5) / 127.5 - 1  # torchvision cuts what is behind the point
    lines = [
        " ".join([str(number + 1), *(f"{place}:{value:.6f}" for place, value in enumerate(row, start=1))])
        for number, row in zip(numbers, values, strict=True)
    ]
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    made = here("download", "usps", "--dataset-source", f"torchvision:USPS?root={tmp_path}")
    assert made.returncode == 0, made.stderr
    answer = here("evaluate", run_folder, "--dataset", "usps", "--measures", "knn")
    assert answer.returncode == 0, answer.stderr
    probabilities = package.load(run_folder).probabilities([np.repeat(one[:, :, None], 3, axis=2) for one in pixels])
    right = probabilities.argmax(axis=1) == numbers
    assert right.mean() > 0.3
    assert answer.stdout.startswith(f"top-1 {right.mean():.4f} ")


def test_a_folder_s_images_lie_behind_links_too(tmp_path, scans, capsys) -> None:
    (tmp_path / "photos/.thumbnails").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for place in ("photos/b.png", "photos/.thumbnails/b.png", "elsewhere/c.png"):
        (tmp_path / place).write_bytes(scans[0].read_bytes())
    (tmp_path / "photos/a").symlink_to("../elsewhere")
    (tmp_path / "elsewhere/round").symlink_to("../photos")
    (tmp_path / "photos/gone.png").symlink_to("nowhere.png")
    found = image_files.listed([str(tmp_path / "photos")], io.StringIO())
    assert found == [tmp_path / "photos/a/c.png", tmp_path / "photos/b.png"]
    said = capsys.readouterr().err
    assert "gone.png: a link that leads to no file" in said
    assert "1 (hidden, or made by a file manager)" in said


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.png\0b\nc.png\0", ["a.png", "b\nc.png"]),
        ("\ufeffa.png\r\nb.png\r\n", ["a.png", "b.png"]),
        ("a\u2028b.png\n", ["a\u2028b.png"]),
    ],
    ids=["find -print0", "a spreadsheet's", "other line separators"],
)
def test_a_list_is_read_as_programs_write_it(text, names) -> None:
    assert image_files.listed(["-"], io.StringIO(text)) == [Path(name) for name in names]


def test_predictions_may_go_to_a_pipe_or_device_and_stay_one(here, run_folder, scans, tmp_path) -> None:
    """As root, a file renamed to /dev/null would take its place."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    answer = here("predict", run_folder, scans[0], "--top", "1", "--output", "pipe")
    assert answer.returncode == 0, answer.stderr
    assert str(scans[0]).encode() in os.read(reader, 1 << 16)
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    refused = here("evaluate", run_folder, "--measures", "calibration", "--output", "/dev/null")
    assert (refused.returncode, "this is a device or a pipe" in refused.stderr) == (2, True), refused.stderr
    assert options.is_stream(Path("/dev/stdout"))
    assert not options.is_stream(Path("/dev/shm/report.html"))
    pipe = here("predict", run_folder, "pipe")
    assert (pipe.returncode, "image pipe is a device or a pipe" in pipe.stderr) == (2, True), pipe.stderr


def test_a_list_may_hold_any_file_name(tmp_path) -> None:
    """As Python opens standard input with PYTHONIOENCODING=utf-8: what is no UTF-8 is an error."""
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    lines = io.TextIOWrapper(io.BytesIO(name + b"\n"), encoding="utf-8")
    assert [os.fsencode(path) for path in image_files.listed(["-"], lines)] == [name]
