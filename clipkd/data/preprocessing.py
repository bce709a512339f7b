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

from clipkd.core.errors import InputError
from clipkd.core.images import MOST_PIXELS, WIDEST, Decoding, declared_or, decode, rgb, shrunk
from clipkd.data.dataset import Dataset, SplitName
from clipkd.data.pixels import normalised, planes, square, unit
from clipkd.data.resampling import squared

Picture = str | Path | Image.Image | np.ndarray
"""An image file, a PIL image, or pixels, uint8 [H, W, 3]."""
DECODED_BEFORE: dict[str, Any] = {"exif": "ignore", "alpha": "drop", "white": WIDEST}
"""How images were decoded for students that were trained before runs wrote it down."""


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
    exif: str = "follow"
    alpha: str = "white"
    white: int | None = None
    """How an image file is decoded (clipkd.core.images.Decoding)."""
    declared_first: bool = False
    """Whether the level of white that a file declares goes before `white`."""

    @classmethod
    def of(cls, dataset: Dataset, size: int) -> Preprocessing:
        """Return what a student of input side `size` that was trained on a dataset needs."""
        spec = dataset.spec
        decoding: dict[str, Any] = {name: getattr(spec, name) for name in ("exif", "alpha") if hasattr(spec, name)}
        levels = getattr(spec, "levels", "auto")
        if levels == "auto":
            white = dataset.artifact.facts.get("reading", {}).get("levels", {}).get("white")
            decoding |= {"white": white, "declared_first": white is not None}
        else:
            decoding["white"] = Decoding.of(**decoding, levels=levels).white
        pack_size = getattr(spec, "pack_size", None)
        return cls(pack_size, spec.image_size, size, tuple(spec.mean), tuple(spec.std), **decoding)

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Preprocessing:
        """Return what `facts` wrote down."""
        return cls(**DECODED_BEFORE | facts | {name: tuple(facts[name]) for name in ("mean", "std")})

    @property
    def decoding(self) -> Decoding:
        """How an image file becomes 8-bit RGB, as in training."""
        white = declared_or(self.white) if self.declared_first and self.white else self.white
        return Decoding(self.exif, self.alpha, white)  # type: ignore[arg-type]

    def facts(self) -> dict[str, Any]:
        """Return the steps as plain data; those of students that were trained before a field came stay as they were."""
        found = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        return {name: value for name, value in found.items() if name != "declared_first" or value}

    def read(self, picture: Picture) -> np.ndarray:
        """Return an image as the student's size asks, uint8 [S, S, 3].

        Raises:
            DataError: a file is missing, damaged or too large; it is named.
            InputError: an array is not uint8 [H, W, 3].
        """
        longest = self.pack_size or MOST_PIXELS
        if isinstance(picture, str | Path):
            pixels = decode(Path(picture), longest, self.decoding)
        elif isinstance(picture, Image.Image):
            pixels = rgb(picture, str(getattr(picture, "filename", "") or "image"), longest, self.decoding)
        else:
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
                raise InputError(f"an image is {picture.dtype} {picture.shape}, not uint8 [H, W, 3]")
            pixels = np.asarray(shrunk(Image.fromarray(picture), longest))
        if self.dataset_size is not None:
            pixels = square(pixels, self.dataset_size)
        return square(pixels, self.size)

    def packed(self, dataset: Dataset, split: SplitName, rows: np.ndarray, as_trained: bool) -> np.ndarray:
        """Return packed images as the student's size asks, uint8 [B, S, S, 3].

        Args:
            dataset: the images.
            split: which of them.
            rows: their rows in the split.
            as_trained: they are those of the student's own training, which read them from no thumbnails: they are
                resized as there, where PIL may differ by a level (clipkd/data/resampling.py).
        """
        images = [np.asarray(dataset.image(split, int(row))) for row in rows]
        return squared(images, self.size) if as_trained else np.stack([self.read(image) for image in images])

    def inputs(self, images: Sequence[np.ndarray], device: torch.device) -> Tensor:
        """Return images [S, S, 3] as a student's input, float32 [B, 3, S, S]."""
        return normalised(unit(planes(np.stack(images)).to(device)), self.mean, self.std)
