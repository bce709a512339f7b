"""Vectors from before: a store of the same teacher and views, made when the dataset was another. No torch here.

Where images are added, removed, moved or labelled, the others are as they were, and so is what the teacher says of
them: an extraction takes over their vectors, and shows the teacher only what it has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact
from clipkd.core.errors import DataError
from clipkd.core.progress import say
from clipkd.data.dataset import Dataset
from clipkd.data.image_digests import places
from clipkd.embeddings.vectors import Vectors, rounding
from clipkd.embeddings.view_plans import ViewPlan
from clipkd.embeddings.weights_sha256 import weights_of
from clipkd.spec.layout import Embeddings

STEM = "-digests"
DIGESTS = f"{STEM}.npy"
"""Ends the name of an array's file with the digest of each row's image, uint8 [N, 16]."""


@dataclass(frozen=True)
class Known:
    """Where the vectors of one new array's images are."""

    arrays: list[Vectors]
    errors: list[float]
    """Of each array, what rounding has cost its vectors so far, relative to a vector."""
    array: np.ndarray
    """Which of the arrays has an image's vectors, int64 [N]; -1: none."""
    row: np.ndarray
    """In which of its rows, int64 [N]."""


class Earlier:
    """What a store from before holds of a dataset's images."""

    def __init__(self, known: Mapping[str, Known], facts: Mapping[str, Any], views: int) -> None:
        """Take what is known by the name of the new array, the facts of the store, and the number of its vectors."""
        self.known, self.facts, self.views = known, facts, views

    def __len__(self) -> int:
        """Return of how many images there are vectors."""
        return sum(int((one.array >= 0).sum()) for one in self.known.values())

    def lacks(self, name: str, rows: slice) -> np.ndarray:
        """Return of which rows of a new array there are no vectors, bool [n]."""
        return self.known[name].array[rows] < 0

    def put(self, name: str, rows: slice, vectors: np.ndarray) -> dict[str, Any]:
        """Put the vectors of rows of a new array where they belong in `vectors` [n, V, D].

        Returns:
            Facts of the part that the rows are: how many rows were taken over, what rounding has cost them, and the
            passes, seconds and device that they took when the teacher saw them.
        """
        known, count, error = self.known[name], 0, 0.0
        for number, stored in enumerate(known.arrays):
            here = np.flatnonzero(known.array[rows] == number)
            if len(here):
                found = stored[known.row[rows][here]]
                vectors[here] = found[:, : vectors.shape[1]] if found.ndim == 3 else found[:, None]
                count, error = count + len(here), max(error, known.errors[number])
        share = count * vectors.shape[1] / self.views
        return {
            "taken_over": count,
            "carried": error,
            "seconds": share * self.facts["seconds"],
            "forward_passes": round(share * self.facts["forward_passes"]),
            "device": self.facts["device"],
        }


def earlier(
    store: Embeddings, plans: Mapping[str, ViewPlan], dataset: Dataset, width: int, sha256: str | None
) -> Earlier | None:
    """Return what the store at a new one's place, of another content of the dataset, holds of its images.

    Args:
        store: what is to be made.
        plans: what the teacher is to be shown, by the name of the stored array.
        dataset: the images.
        width: dimensions D of the teacher's vectors.
        sha256: of the teacher's weights.

    Returns:
        None where it holds nothing, which is said where that is not plain.
    """
    if not (store.folder / MANIFEST).exists():
        return None
    try:
        before = open_artifact(store.folder, "embeddings", store.identity)
        if before.facts["dataset_content"] == dataset.content:
            return None
        if why := unusable(before, store, sha256):
            say(f"{store.folder} is of other images: no vector is taken over, as {why}")
            return None
        names = [name for name in ("train", "test", "sample") if f"{name}.npy" in before.manifest["files"]]
        arrays = {name: Vectors(before, name) for name in names}
        known = {name: known_of(name, plan, dataset, before, arrays) for name, plan in plans.items()}
    except DataError as error:
        say(f"{error}; no vector is taken over")
        return None
    assert all(one.shape[-1] == width for one in arrays.values())
    found = Earlier(known, before.facts, sum(int(np.prod(one.shape[:-1])) for one in arrays.values()))
    return found if len(found) else None


def unusable(before: Artifact, store: Embeddings, sha256: str | None) -> str:
    """Return why the vectors of a store can't be another's; "" where they can."""
    if store.views.crop and not store.views.replays:
        return "a sample's regions are drawn anew for all images"
    if store.views.augment == "full":
        return "its views are mixed with those of other images, which are drawn anew"
    if weights_of(before) != sha256:
        return f"it was made with other weights of {store.teacher.title}"
    if not any(name.endswith(DIGESTS) for name in before.manifest["files"]):
        return "an older version made it, which did not note of which images"
    return ""


def known_of(name: str, plan: ViewPlan, dataset: Dataset, before: Artifact, arrays: Mapping[str, Vectors]) -> Known:
    """Return where the vectors of a new array's images are: in the array of its name, or else in the other split's."""
    wanted = keys(dataset.digests(plan.split)[plan.rows], plan.flips[:, 0] if name == "sample" else None)
    # The first view of several is the image as it is, and the only one of a test image.
    usable = [other for other in arrays if views_of(arrays[other]) >= plan.flips.shape[1]]
    usable = sorted((one for one in usable if (one == "sample") == (name == "sample")), key=lambda one: one != name)
    array, row = np.full(len(wanted), -1), np.full(len(wanted), -1)
    for number, other in enumerate(usable):
        stored = keys(before.array(f"{other}{STEM}"), before.array("sample-flips") if name == "sample" else None)
        found = places(wanted, stored)
        new = (array < 0) & (found >= 0)
        array[new], row[new] = number, found[new]
    errors = [rounding(before.facts["formats"][other]) for other in usable]
    return Known([arrays[other] for other in usable], errors, array, row)


def keys(digests: np.ndarray, flips: np.ndarray | None) -> np.ndarray:
    """Return what tells rows apart, uint8 [N, B]: the image's digest and, of a sample, whether it is mirrored."""
    return digests if flips is None else np.concatenate([digests, flips[:, None].astype(np.uint8)], axis=1)


def views_of(vectors: Vectors) -> int:
    """Return how many vectors of an image an array holds."""
    return int(vectors.shape[1]) if len(vectors.shape) == 3 else 1
