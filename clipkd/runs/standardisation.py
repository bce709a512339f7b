"""Standardisation: each dimension of a teacher's embeddings at mean 0 and deviation 1 over its training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipkd.core.artifacts import Artifact
from clipkd.core.errors import DataError
from clipkd.embeddings.vectors import Statistics

FLAT = 1e-6
"""A dimension whose deviation is this share of the largest one, or less, becomes 0: it holds rounding alone."""


@dataclass(frozen=True)
class Standardisation:
    """(vector - mean) * scale, dimension by dimension; float64 [D] each."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def by(cls, mean: np.ndarray, deviation: np.ndarray) -> Standardisation:
        """Return the one by a mean and deviation [D]; DataError where no dimension has any deviation."""
        if not deviation.max() > 0:
            raise DataError("embeddings that are all the same can't be standardised")
        is_flat = deviation <= FLAT * deviation.max()
        return cls(np.asarray(mean, np.float64), np.where(is_flat, 0.0, 1.0 / np.where(is_flat, 1.0, deviation)))

    @classmethod
    def of_images(cls, store: Artifact) -> Standardisation:
        """Return the one by all stored views of all training images."""
        return cls.by(store.array("train-mean"), store.array("train-deviation"))

    @classmethod
    def of_vectors(cls, vectors: np.ndarray) -> Standardisation:
        """Return the one by vectors [S, D]: of the images, or prompts, that prototypes are made of."""
        statistics = Statistics([vectors])
        return cls.by(statistics.mean, statistics.deviation)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors [..., D] standardised, float32."""
        return ((vectors - self.mean) * self.scale).astype(np.float32)
