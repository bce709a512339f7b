"""Folders made of real data and real weights that packages contain, for config/fashion.yaml.

    python -m benchmarks.folders fashion FILES FOLDER --images 10000
    python -m benchmarks.folders lite0 WEIGHTS FOLDER --pixels 96

`fashion`: Fashion-MNIST from the four .gz files in FILES (Debian's dataset-fashion-mnist puts them into
/usr/share/datasets/fashion-mnist). `lite0`: a teacher in timm's form from the lite0.safetensors of docs/teachers.md,
with so many pixels at its input.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")


def idx(path: Path) -> np.ndarray:
    """Return an array of MNIST's file format."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def fashion(files: Path, folder: Path, images: int) -> None:
    """Write the first `images` training images, as many of each class, and every test image."""
    for split, prefix, most in (("train", "train", images // len(FASHION)), ("val", "t10k", 10**6)):
        pixels, labels = (idx(files / f"{prefix}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        for label, name in enumerate(FASHION):
            target = folder / split / name
            target.mkdir(parents=True)
            for row in np.flatnonzero(labels == label)[:most]:
                Image.fromarray(pixels[row]).save(target / f"{row:05}.png")


def lite0(weights: Path, folder: Path, pixels: int) -> None:
    """Write EfficientNet-Lite0 as a folder of timm: whole images, enlarged to `pixels`."""
    import_module("clipkd.core.vision")  # before timm, which imports torchvision
    timm = import_module("timm")
    folder.mkdir(parents=True)
    shutil.copy(weights, folder / "model.safetensors")
    known = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    shown = known.to_dict(remove_source=True, remove_null=True) | {"input_size": [3, pixels, pixels], "crop_pct": 1.0}
    config = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000, "pretrained_cfg": shown}
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def main() -> None:
    """Read the command line and write one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fashion", "lite0"))
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pixels", type=int, default=96)
    given = parser.parse_args()
    if given.what == "fashion":
        fashion(given.source, given.folder, given.images)
    else:
        lite0(given.source, given.folder, given.pixels)


if __name__ == "__main__":
    main()
