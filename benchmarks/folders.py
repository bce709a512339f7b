"""Folders made of real data and real weights that packages contain, for config/fashion.yaml and grids of your own.

    python -m benchmarks.folders fashion FILES FOLDER --images 10000
    python -m benchmarks.folders emoji PACKAGES FOLDER
    python -m benchmarks.folders lite0 WEIGHTS FOLDER --pixels 96
    python -m benchmarks.folders untrained TEACHER FOLDER

`fashion`: Fashion-MNIST from the four .gz files in FILES (Debian's dataset-fashion-mnist puts them into
/usr/share/datasets/fashion-mnist). `emoji`: the npm packages emoji-datasource-google, -twitter and -facebook, unpacked
as google, twitter and facebook in PACKAGES; every emoji's three pictures are all in train/ or all in val/. `lite0`: a
teacher in timm's form from the lite0.safetensors of docs/teachers.md, with an input of so many pixels. `untrained`: the
same model as in such a folder, with random weights: what it gives a student, it did not learn.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
VENDORS = ("google", "twitter", "facebook")
CATEGORIES = ("Animals & Nature", "Food & Drink", "Travel & Places", "Objects", "Activities")
FEWEST = 7
"""Emoji that a subcategory must have to be a class."""
HELD_OUT = 0.3
"""Share of a class's emoji that is in val/."""


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


def emoji(packages: Path, folder: Path) -> None:
    """Write one class per subcategory, on white, at the packages' 64 pixels."""
    found: dict[str, list[str]] = defaultdict(list)
    pictures = {vendor: packages / vendor / "img" / vendor / "64" for vendor in VENDORS}
    for entry in json.loads((packages / VENDORS[0] / "emoji.json").read_text()):
        everywhere = all((place / entry["image"]).is_file() for place in pictures.values())
        if entry["category"] in CATEGORIES and everywhere:
            found[re.sub("[^a-z]+", "-", entry["subcategory"].lower())].append(entry["image"])
    generator = np.random.default_rng(0)
    for name, files in sorted(found.items()):
        if len(files) < FEWEST:
            continue
        order = generator.permutation(sorted(files))
        held_out = round(HELD_OUT * len(order))
        for split, members in (("val", order[:held_out]), ("train", order[held_out:])):
            target = folder / split / name
            target.mkdir(parents=True)
            for file in members:
                for vendor, place in pictures.items():
                    picture = Image.open(place / file).convert("RGBA")
                    white = Image.new("RGBA", picture.size, "white")
                    Image.alpha_composite(white, picture).convert("RGB").save(target / f"{vendor}-{file}")


def lite0(weights: Path, folder: Path, pixels: int) -> None:
    """Write EfficientNet-Lite0 as a folder of timm: whole images, enlarged to `pixels`."""
    from clipkd.core.vision import torchvision  # noqa: F401, I001  (timm imports it: it must work first)
    import timm

    folder.mkdir(parents=True)
    shutil.copy(weights, folder / "model.safetensors")
    shown = timm.get_pretrained_cfg("tf_efficientnet_lite0").to_dict(remove_source=True, remove_null=True)
    shown |= {"input_size": [3, pixels, pixels], "crop_pct": 1.0}
    config = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000, "pretrained_cfg": shown}
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def untrained(teacher: Path, folder: Path) -> None:
    """Write the model of a folder of timm with the weights that timm draws for it from seed 0."""
    from clipkd.core.vision import torchvision  # noqa: F401, I001  (timm imports it: it must work first)
    import timm
    import torch
    from safetensors.torch import save_file

    config = json.loads((teacher / "config.json").read_text())
    torch.manual_seed(0)
    model = timm.create_model(config["architecture"], num_classes=config["num_classes"])
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    shutil.copy(teacher / "config.json", folder)


def main() -> None:
    """Read the command line and write one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fashion", "emoji", "lite0", "untrained"))
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pixels", type=int, default=96)
    given = parser.parse_args()
    if given.what == "fashion":
        fashion(given.source, given.folder, given.images)
    elif given.what == "emoji":
        emoji(given.source, given.folder)
    elif given.what == "lite0":
        lite0(given.source, given.folder, given.pixels)
    else:
        untrained(given.source, given.folder)


if __name__ == "__main__":
    main()
