"""The paper's resource figure (arXiv 2404.06170), read off the picture to +-0.004."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clipkd.spec.cells import Cell

HARDWARE = "one GPU"
MEMORY_CLAIM = 9
TIME_CLAIM = 8
"""The paper's headline: 9x less memory and 8x less training time than the live teacher."""


@dataclass(frozen=True)
class Published:
    """One point of the figure."""

    train_type: str
    student: str
    memory_gb: float
    """The figure's "memory allocated"; its values are those of fp32 weights alone."""
    accuracy: float
    """Share of 1."""
    hours: tuple[float, float]
    """Time per epoch, lowest and highest reading."""

    @property
    def seconds(self) -> tuple[float, float]:
        """Time per epoch in seconds."""
        return self.hours[0] * 3600, self.hours[1] * 3600


FIGURE = (
    Published("teacher-KD", "base-32", 1.235, 0.515, (0.163, 0.163)),
    Published("embed-KD", "large-32", 0.129, 0.525, (0.016, 0.020)),
    Published("embed-KD", "base-64", 0.019, 0.525, (0.015, 0.015)),
    Published("embed-KD", "large-64", 0.131, 0.548, (0.060, 0.060)),
)
TRAIN_TYPES = ("teacher-KD", "embed-KD")
"""The train types of the figure."""
DATASETS = ("cifar10", "cifar100", "imagenet")
"""The paper's."""


def repeats_paper(cells: Iterable[Cell]) -> bool:
    """Return whether a grid has a part of the paper's: one of its datasets, or the mathematics of the released code."""
    return any(cell.dataset in DATASETS or cell.recipe_spec.name == "reference" for cell in cells)
