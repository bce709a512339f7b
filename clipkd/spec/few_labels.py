"""Few labels: what `labels: N` adds to a cell and to all that is made of the labelled images. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from clipkd.core.fingerprint import Identity

PROTOCOL = 2
"""Bumped when other images are chosen, or when an epoch shows others (clipkd/data/labelled.py)."""


@dataclass(frozen=True)
class FewLabels:
    """So many labelled images of a dataset, those for validation included, chosen by a seed."""

    count: int
    seed: int

    def identity(self) -> Identity:
        return {"labels": self.count, "seed": self.seed, "protocol": PROTOCOL}


def labels_identity(few: FewLabels | None, has_labels: bool = True) -> Identity:
    """Return what few labels, or none, add to an identity; nothing where all are seen."""
    if not has_labels:
        return {"no_labels": {"protocol": PROTOCOL}}
    return {"few_labels": few.identity()} if few else {}
