"""Handwritten digits: 1,797 real 8x8 scans, shipped inside scikit-learn, enlarged to 32x32 RGB.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49 (its test part, as scikit-learn ships it).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import CLIP_MEAN, CLIP_STD, DatasetSpec, Reading, Split

TEST_EVERY = 5
"""Each class's every fifth image is a test image."""
CLASSES = tuple("0123456789")


@dataclass(frozen=True)
class Digits(DatasetSpec):
    """The embedded dataset: real, small, no network."""

    sha256: str = ""
    """Digest of the pixels and labels that scikit-learn must give."""

    def source_identity(self) -> Identity:
        return {"sklearn": "load_digits", "sha256": self.sha256, "size": self.image_size, "test_every": TEST_EVERY}

    @property
    def counts(self) -> tuple[int, int]:
        return 1442, 180

    def known_classes(self, source: str | None) -> list[str] | None:
        return list(CLASSES)

    def read(self, source: str | None, downloads: Path) -> Reading:
        import hashlib

        from PIL import Image
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
        found = hashlib.sha256(pixels.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
        if found != self.sha256:
            raise DataError(
                f"scikit-learn's digits have the sha256 {found}, not {self.sha256}: another version of the data"
            )
        assert self.image_size is not None
        size = (self.image_size, self.image_size)
        # Scans hold ink in 0..16; bilinear enlargement keeps the strokes smooth.
        images = [np.asarray(Image.fromarray(np.minimum(scan.astype(np.uint16) * 16, 255).astype(np.uint8))
                             .resize(size, Image.Resampling.BILINEAR).convert("RGB")) for scan in pixels]  # fmt: skip
        is_test = np.zeros(len(labels), dtype=bool)
        for digit in range(10):
            is_test[np.flatnonzero(labels == digit)[TEST_EVERY - 1 :: TEST_EVERY]] = True
        chosen = {part: np.flatnonzero(is_test == part) for part in (False, True)}
        splits = {part: Split(labels[rows], [images[row] for row in rows]) for part, rows in chosen.items()}
        return Reading(list(CLASSES), splits[False], splits[True])


SPEC = Digits(
    name="digits",
    title="Digits",
    image_size=32,
    classes=10,
    mean=CLIP_MEAN,
    std=CLIP_STD,
    augmentation="none",  # a mirrored digit is another symbol or none
    validation_fraction=0.125,
    comes_with="scikit-learn",
    sha256="65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5",
)
