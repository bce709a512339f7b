"""The images that a teacher was trained on here, where their dataset is packed again with others. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipkd.core.artifacts import MANIFEST, Draft, open_artifact, read_manifest
from clipkd.core.files import read_json
from clipkd.data.dataset import Dataset
from clipkd.data.image_digests import places

SEEN = "seen-digests"
"""In a teacher's folder: the digest of each image that it was trained on, uint8 [N, 16]."""


def write_seen(draft: Draft, dataset: Dataset) -> None:
    """Note in a teacher's draft that it was trained on the labelled training images of a dataset."""
    np.save(draft.path / f"{SEEN}.npy", dataset.digests("train")[dataset.labelled_training])
    draft.facts |= {"dataset_content": dataset.content}


@dataclass(frozen=True)
class Change:
    """How a dataset differs from what a teacher was trained on."""

    dataset: str
    refusal: str = ""
    """Why the teacher can't be used; "": it can."""
    training: int = 0
    """Labelled training images that there are now."""
    new: int = 0
    """How many of these the teacher was not trained on."""
    validation: int = 0
    """How many of the images held out for validation it was trained on."""

    def __str__(self) -> str:
        held_out = f"; {self.validation:,} that it was trained on are held out for validation now"
        return (
            f"was trained on {self.dataset} as it was before: {self.new:,} of {self.training:,} labelled training "
            f"images are new to it{held_out if self.validation else ''}"
        )


def change(teacher: Path, packed: Path) -> Change | None:
    """Return how a packed dataset differs from what a teacher was trained on; None: in nothing, or one is not there.

    Raises:
        DataError: one of both is damaged.
    """
    if not (teacher / MANIFEST).exists() or not (packed / MANIFEST).exists():
        return None
    before, now = read_manifest(teacher), read_manifest(packed)
    content = before["facts"].get("dataset_content")  # older versions don't say
    if content in (None, now["facts"]["content"]):
        return None
    names = ("train-digests.npy", "test-digests.npy", "validation.npy", "train-labels.npy")
    if f"{SEEN}.npy" not in before["files"] or not now["files"].keys() >= set(names):
        return Change(
            packed.name, f"was trained on {packed.name} as it was before, perhaps on what are test images now"
        )
    if read_json(teacher / "config.json")["label_names"] != now["facts"]["classes"]:
        return Change(packed.name, f"was trained on {packed.name} when it had other classes")
    seen = open_artifact(teacher, "teacher", only=(f"{SEEN}.npy",)).array(SEEN)
    dataset = open_artifact(packed, "dataset", only=names)
    if count := int((places(dataset.array("test-digests"), seen) >= 0).sum()):
        return Change(packed.name, f"was trained on {count:,} of the test images that {packed.name} has now")
    labels, held_out = dataset.array("train-labels"), dataset.array("validation")
    is_known = places(dataset.array("train-digests"), seen) >= 0
    rows = np.setdiff1d(np.flatnonzero(labels >= 0), held_out)
    return Change(packed.name, "", len(rows), int((~is_known[rows]).sum()), int(is_known[held_out].sum()))
