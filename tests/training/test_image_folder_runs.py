"""A folder of images of many sizes: random crops, so the teacher runs live, and prototypes are stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """Three classes of real scans, each image of another size, as PNG files."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("images") / "flowers"
    digits, generator = load_digits(), np.random.default_rng(0)
    for row in np.flatnonzero(digits.target < 3)[:90]:
        split = "train" if row % 4 else "val"
        path = folder / split / f"class-{digits.target[row]}"
        path.mkdir(parents=True, exist_ok=True)
        size = tuple(int(side) for side in generator.integers(30, 70, 2))
        pixels = (digits.images[row] * 15).astype(np.uint8)
        Image.fromarray(pixels).resize(size).convert("RGB").save(path / f"{row}.png")
    return folder


@pytest.mark.parametrize(("train_type", "recipe"), [("embed-KD", "reference"), ("vanilla", "corrected")])
def test_train_types_work_on_random_crops(train_type, recipe, flowers, vit_folder, tmp_path):
    names = ["--dataset-name", "flowers", "--dataset-source", flowers, "--teacher-model", vit_folder]
    flags = ["--train-type", train_type, "--recipe", recipe, "--student", "tiny-32", "--epochs", 1, "--batch-size", 16]
    places = ["--data", tmp_path / "data", "--log-folder", tmp_path / "run", "--per-class", 5, "--threads", 1]
    command = [sys.executable, "-m", "clipkd", "train", *map(str, [*names, *flags, *places])]
    subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())
    assert metrics["classes"] == 3
    live = train_type == "vanilla"
    assert metrics["cell"]["teacher_source"] == ("live" if live else "cached")
    assert cost["teacher"]["forward_passes"] == (cost["images_per_epoch"] if live else 0)
