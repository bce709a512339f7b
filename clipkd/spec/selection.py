"""Which epoch of a run is kept: its student is the one that the run's folder holds. No torch here."""

from __future__ import annotations

from typing import Literal

from clipkd.core.fingerprint import Identity
from clipkd.core.unlabelled import few_held_out
from clipkd.spec.few_labels import FewLabels

Split = Literal["validation", "test", "none"]
"""Which images measure each epoch; `none`: no label is seen."""
KeptBy = Literal["validation", "test", "last", "none"]
"""What says which epoch is kept. `last`, `none`: the last one, since there are few validation images, or no labels."""
PROTOCOL = 1
"""Bumped when another epoch is kept."""
LEAST_TO_CHOOSE = 100
"""Validation images that it takes: of fewer, one moves their accuracy by more than a point."""


def kept_by(split: Split, validation_images: int) -> KeptBy:
    """Return what says which epoch is kept.

    Args:
        split: that of the recipe.
        validation_images: how many images are held out.
    """
    return "last" if split == "validation" and validation_images < LEAST_TO_CHOOSE else split


def selection_identity(split: Split, few: FewLabels | None) -> Identity:
    """Return what a run's identity says where the number of labels alone makes the last epoch the one that is kept."""
    if few is None or kept_by(split, few_held_out(few.count)) != "last":
        return {}
    return {"kept_epoch": {"by": "last", "protocol": PROTOCOL}}
