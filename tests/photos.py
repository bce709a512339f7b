"""A folder of photograph-like images of many sizes, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_photos(folder: Path, train: int = 40, val: int = 12, least: int = 30, most: int = 70) -> Path:
    """Save random smooth images in `train/` and `val/`, two classes each; return the folder."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            path = folder / split / f"class-{number % 2}" / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            size = [int(side) for side in generator.integers(least, most, 2)]
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return folder
