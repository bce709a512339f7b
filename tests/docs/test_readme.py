"""README.md from the first line to the last, as somebody with images of their own reads it.

A project in an empty folder, then each thing that they take with them, opened by the programs that the pages name.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.docs.blocks import blocks, page_commands
from tests.docs.conftest import ROOT, Reader

PAGE = "README.md"
BEFORE = ("git clone", "make ", ". .venv")
"""`clipkd init` stands for these here; the tutorial's test types them."""
SPLITS = {"train": "train", "val": "test"}
"""Folder of photos -> split."""


def take_photos(folder: Path) -> None:
    """Save scanned digits of three classes as a reader's images: a third of those for training has no label."""
    digits, random = load_digits(), np.random.default_rng(0)
    for row in np.flatnonzero(np.isin(digits.target, [3, 5, 8])):
        name = f"digit-{digits.target[row]}" if row % 4 == 0 or row % 3 else "unlabeled"
        path = folder / ("val" if row % 4 == 0 else "train") / name / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        ink = digits.images[row][..., None] / 16 * random.uniform(0.5, 1, 3)
        size = tuple(int(side) for side in random.integers(40, 90, 2))
        Image.fromarray((255 * ink).astype(np.uint8)).resize(size).save(path)


def test_it_is_short():
    assert len((ROOT / PAGE).read_text(encoding="utf-8").splitlines()) <= 150


def types(reader: Reader, command: str, code: int = 0) -> str:
    """Type a command and return what it says."""
    answer = reader.types(command, timeout=1800)
    assert answer.returncode == code, f"{command}\n{answer.stdout[-4000:]}"
    return answer.stdout


def python(reader: Reader, *blocks: str) -> str:
    """Run blocks of a page, and what is asked of them, as one program; return what it prints."""
    first = "from clipkd.core.vision import torchvision"  # beside a CPU build of torch, timm's own import may fail
    (reader.folder / "page.py").write_text("\n".join((first, *blocks)))
    return types(reader, "python page.py")


def python_of(page: Path, word: str = "") -> str:
    """Return the Python of a page, or its block that holds a word."""
    found = blocks(page.name, page.read_text(encoding="utf-8"))
    return "\n".join(block.text for block in found if block.language == "python" and word in block.text)


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    """What each command of the page said, by its first two words."""
    return {}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, said: dict[str, str]) -> Reader:
    """In an empty folder, with the installed command alone: every command of the page was typed."""
    root = tmp_path_factory.mktemp("readme")
    reader = Reader(root / "project", root / "home")
    reader.folder.mkdir()
    reader.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    types(reader, "clipkd init")
    take_photos(reader.folder / "photos")
    photo = next((reader.folder / "photos/val/digit-3").iterdir())
    (reader.folder / "scan.png").write_bytes(photo.read_bytes())
    found = blocks(PAGE, (ROOT / PAGE).read_text(encoding="utf-8"))
    (config,) = (block.text for block in found if block.language == "yaml" and "grid:" in block.text)
    (reader.folder / "config/photos.yaml").write_text(config)
    for command in page_commands(ROOT, PAGE):
        if not command.text.startswith(BEFORE):
            said[" ".join(command.text.split()[:2])] = types(reader, command.text)
        if command.text.startswith("clipkd export "):
            types(reader, f"RUN={command.text.split()[2]}")
    return reader


@pytest.mark.docs
def test_own_images_become_a_student_that_timm_and_transformers_open(reader, said):
    assert len(said) == 6
    assert re.search(r"photos/val/\S+,1,digit-\d,0\.\d+", said["clipkd predict"])
    (student,) = re.findall(r"scan.png,1,(\S+?),", types(reader, "clipkd predict exported scan.png --top 1"))
    text = python_of(ROOT / PAGE, "timm")
    last = 'assert model.num_classes == 3\nprint(max(_, key=lambda one: one["score"])["label"])'
    assert "\npipeline(" in text
    assert python(reader, text.replace("\npipeline(", "\n_ = pipeline("), last).split()[-1] == student


@pytest.mark.docs
def test_the_student_opens_in_onnx_runtime(reader):
    (command,) = (one.text for one in page_commands(ROOT, "docs/deployment.md") if "--format onnx" in one.text)
    types(reader, command)
    card = python_of(reader.folder / "exported-onnx/README.md", "onnxruntime")
    check = (
        "import clipkd, json",
        "expected = clipkd.load('exported').probabilities(['scan.png'])",
        "np.testing.assert_allclose(probabilities, expected, atol=0.02)",  # the card leaves the size of packing out
        "assert len(json.load(open('exported-onnx/config.json'))['label_names']) == probabilities.shape[1] == 3",
    )
    python(reader, card.replace("FOLDER", "exported-onnx").replace("image.png", "scan.png"), *check)


@pytest.mark.docs
def test_the_student_answers_in_a_browser(reader):
    """The lock can't hold gradio: without it the command says what to do; with it, tests/use/test_demo.py asks more."""
    (command,) = (one.text for one in page_commands(ROOT, "docs/deployment.md") if one.text.startswith("clipkd demo"))
    if find_spec("gradio") is None:
        assert "pip install 'clipkd[demo]'" in types(reader, command, code=4)
    else:
        assert "open http://127.0.0.1:" in types(reader, f"timeout --signal INT 60 {command}", code=124)


@pytest.mark.docs
def test_the_vectors_open_in_pandas_and_duckdb(reader, monkeypatch):
    """README's own query, and the lines of the card: a row for each photo, under its label."""
    photos = Counter(path.parts[-3:-1] for path in (reader.folder / "photos").glob("*/*/*.png"))
    labels = {"unlabeled": None}
    expected = {(SPLITS[split], labels.get(name, name)): count for (split, name), count in photos.items()}
    assert len(expected) == 7
    monkeypatch.chdir(reader.folder)
    first, query = python_of(ROOT / PAGE, "duckdb").split("\n\n")
    exec(first, space := {})
    rows = eval(query, space).fetchall()
    assert {(split, name): count for split, name, count in rows} == expected
    monkeypatch.chdir("vectors")
    exec(python_of(Path("README.md")), space)
    assert space["table"].groupby("class").size().to_dict() == {
        name: count for (split, name), count in expected.items() if split == "train" and name
    }
    assert (space["vectors"].dtype, len(space["vectors"])) == (np.float32, len(space["table"]))


@pytest.mark.docs
def test_dvc_shows_what_a_change_did_to_the_results(reader):
    """One seed less: the means of the others, which are taken from the table of all runs."""
    page = [command.text for command in page_commands(ROOT, "docs/dvc.md")]
    (begin,) = (command for command in page if command.startswith("git init"))
    (commit,) = (command for command in page if "results/summary.json" in command)
    types(reader, begin)
    types(reader, commit)
    assert json.loads(types(reader, "dvc metrics diff --json") or "{}") == {}
    config = reader.folder / "config/photos.yaml"
    config.write_text(config.read_text().replace("[0, 1, 2]", "[0, 1]"))
    (run,) = (command.text for command in page_commands(ROOT, PAGE) if command.text.startswith("snakemake"))
    runs = pd.read_csv(reader.folder / "results/tables/runs.csv")
    types(reader, run)
    shown = types(reader, "dvc metrics diff --json")
    changed = json.loads(shown[shown.index("{") :])["results/summary.json"]
    taught = runs[runs.is_headline & (runs.train_type == "vanilla")]
    (found,) = (change for name, change in changed.items() if name.endswith("vanilla (replayed).top1"))
    assert found["old"] == pytest.approx(taught.top1.mean(), abs=1e-6)
    assert found["new"] == pytest.approx(taught[taught.seed < 2].top1.mean(), abs=1e-6)
    assert found["new"] != found["old"]
