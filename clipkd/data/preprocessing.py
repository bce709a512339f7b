"""Preprocessing: what has to happen to an image before a student looks at it, as its test images were prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipkd.core.images import MOST_PIXELS, decode, shrunk, to_rgb
from clipkd.data.pixels import normalised, planes, square, unit
from clipkd.plugins.datasets import DatasetSpec
from clipkd.core.errors import InputError

Picture = str | Path | Image.Image | np.ndarray
"""An image file, a PIL image, or pixels, uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps, in the order of the fields; each resizing is skipped where the size is right already."""

    pack_size: int | None
    """A longer short side is brought down to it first (bicubic), in pixels; None: it is not."""
    dataset_size: int | None
    """Side of the dataset's own images in pixels, to which others are brought (bilinear, not cropped); None: any."""
    size: int
    """Side of the student's input, in pixels (bilinear)."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Normalisation, in units of [0, 1]."""

    @classmethod
    def of(cls, spec: DatasetSpec, size: int) -> Preprocessing:
        """Return what a student of input side `size` that was trained on a dataset needs."""
        return cls(getattr(spec, "pack_size", None), spec.image_size, size, tuple(spec.mean), tuple(spec.std))

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Preprocessing:
        """Return what `facts` wrote down."""
        return cls(**facts | {name: tuple(facts[name]) for name in ("mean", "std")})

    def facts(self) -> dict[str, Any]:
        """Return the steps as plain data."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def read(self, picture: Picture) -> np.ndarray:
        """Return an image as the student's size asks, uint8 [S, S, 3].

        Raises:
            DataError: a file is missing, damaged or too large; it is named.
            InputError: an array is not uint8 [H, W, 3].
        """
        longest = self.pack_size or MOST_PIXELS
        if isinstance(picture, str | Path):
            pixels = decode(Path(picture), longest)
        elif isinstance(picture, Image.Image):
            pixels = np.asarray(shrunk(to_rgb(picture, Path("image")), longest))
        else:
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                raise InputError(f"an image is {picture.dtype} {picture.shape}, not uint8 [H, W, 3]")
            pixels = np.asarray(shrunk(Image.fromarray(picture), longest))
        if self.dataset_size is not None:
            pixels = square(pixels, self.dataset_size)
        return square(pixels, self.size)

    def inputs(self, images: Sequence[np.ndarray], device: torch.device) -> Tensor:
        """Return images [S, S, 3] as a student's input, float32 [B, 3, S, S]."""
        return normalised(unit(planes(np.stack(images)).to(device)), self.mean, self.std)
