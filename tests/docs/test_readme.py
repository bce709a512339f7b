"""README.md from the first line to the last, as somebody with images of their own reads it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.docs.blocks import blocks, page_commands
from tests.docs.conftest import ROOT, Reader

PAGE = "README.md"
BEFORE = ("git clone", "make ", ". .venv")
"""`clipkd init` stands for these here; the tutorial's test types them."""


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


@pytest.mark.docs
def test_own_images_become_a_student_and_vectors_that_open_everywhere(tmp_path):
    """In an empty folder, with the installed command alone."""
    found = blocks(PAGE, (ROOT / PAGE).read_text(encoding="utf-8"))
    reader = Reader(tmp_path / "project", tmp_path / "home")
    reader.folder.mkdir()
    reader.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    assert reader.types("clipkd init", timeout=60).returncode == 0
    take_photos(reader.folder / "photos")
    Image.new("RGB", (50, 60)).save(reader.folder / "scan.png")
    (config,) = (block.text for block in found if block.language == "yaml" and "grid:" in block.text)
    (reader.folder / "config/photos.yaml").write_text(config)
    typed = [command for command in page_commands(ROOT, PAGE) if not command.text.startswith(BEFORE)]
    assert len(typed) == 6
    said = ""
    for command in typed:
        answer = reader.types(command.text, timeout=1800)
        assert answer.returncode == 0, f"{command}\n{answer.stdout[-4000:]}"
        said += answer.stdout
    assert re.search(r"photos/val/\S+,1,digit-\d,0\.\d+", said)
    python = "\n".join(block.text for block in found if block.language == "python")
    first = "from clipkd.core.vision import torchvision"  # beside a CPU build of torch, timm's own import may fail
    last = "assert model.num_classes == 3"
    (reader.folder / "page.py").write_text(f"{first}\n{python}\n{last}")
    answer = reader.types("python page.py", timeout=300)
    assert answer.returncode == 0, answer.stdout[-4000:]
