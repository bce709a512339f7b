"""Vectors from before: stores of the same teacher and views, and parts of one that was not finished, made when the
dataset was another. No torch here.

Where images are added, removed, moved or labelled, or come from another source, the others are as they were, and so
is what the teacher says of them: an extraction takes over their vectors, and shows the teacher only what it has not
seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import MANIFEST, Artifact, open_artifact, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity, fingerprint
from clipkd.core.progress import say
from clipkd.data.dataset import Dataset
from clipkd.data.image_digests import BYTES, places
from clipkd.embeddings.parts import PART, of_other_images
from clipkd.embeddings.vectors import Vectors, rounding
from clipkd.embeddings.view_plans import ViewPlan
from clipkd.embeddings.weights_sha256 import weights_of
from clipkd.spec.layout import Embeddings

ARRAYS = ("train", "test", "sample")
STEM = "-digests"
SIZE = "image_size"
"""Fact of a store: the size that all images of its dataset have, or None; on it depends how they are presented."""
DIGESTS = f"{STEM}.npy"
"""Ends the name of an array's file with the digest of each row's image, uint8 [N, 16]."""


@dataclass(frozen=True)
class Stored:
    """One array of a store."""

    name: str
    vectors: Vectors
    keys: np.ndarray
    """What tells its rows apart, uint8 [M, B]."""
    error: float
    """What rounding has cost its vectors so far, relative to a vector."""
    seconds: float
    """What a vector took, when the teacher made it; as all that follows."""
    passes: float
    device: str

    @property
    def views(self) -> int:
        """How many vectors of an image it holds."""
        return int(self.vectors.shape[1]) if len(self.vectors.shape) == 3 else 1


@dataclass(frozen=True)
class Known:
    """Where the vectors of one new array's images are."""

    arrays: list[Stored]
    array: np.ndarray
    """Which of the arrays has an image's vectors, int64 [N]; -1: none."""
    row: np.ndarray
    """In which of its rows, int64 [N]."""


class Earlier:
    """What stores from before hold of a dataset's images."""

    def __init__(self, known: Mapping[str, Known]) -> None:
        """Take what is known by the name of the new array."""
        self.known = known

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
            passes, seconds and devices that they took when the teacher saw them.
        """
        known, views = self.known[name], vectors.shape[1]
        count, error, seconds, passes, devices = 0, 0.0, 0.0, 0.0, set[str]()
        for number, stored in enumerate(known.arrays):
            here = np.flatnonzero(known.array[rows] == number)
            if len(here):
                found = stored.vectors[known.row[rows][here]]
                vectors[here] = found[:, :views] if found.ndim == 3 else found[:, None]
                count, error = count + len(here), max(error, stored.error)
                seconds, passes = (
                    seconds + len(here) * views * stored.seconds,
                    passes + len(here) * views * stored.passes,
                )
                devices |= {*stored.device.split("; ")}
        return {
            "taken_over": count,
            "carried": error,
            "seconds": seconds,
            "forward_passes": round(passes),
            "device": "; ".join(sorted(devices)),
        }


def earlier(
    store: Embeddings, plans: Mapping[str, ViewPlan], dataset: Dataset, width: int, sha256: str | None
) -> Earlier | None:
    """Return what stores, and parts of one, hold of the images that a new one is to be of; None: nothing.

    Args:
        store: what is to be made.
        plans: what the teacher is to be shown, by the name of the stored array.
        dataset: the images.
        width: dimensions D of the teacher's vectors.
        sha256: of the teacher's weights.
    """
    left = [stored_part(part) for part in of_other_images(store, dataset.content)]
    if why := unusable(store):
        if left or (store.folder / MANIFEST).exists():
            say(f"{store.folder} is of other images: no vector is taken over, as {why}")
        return None
    arrays = left
    wanted = {name: keys_of(name, plan, dataset) for name, plan in plans.items()}
    images = {row.tobytes() for rows in wanted.values() for row in rows[:, :BYTES]}
    for folder in stores_before(store):
        try:
            if not has_any(folder, images):
                continue
            before = open_artifact(folder, "embeddings")
            if weights_of(before) != sha256:
                say(f"{folder}: no vector is taken over, as it was made with other weights of {store.teacher.title}")
            else:
                arrays += arrays_of(before)
        except DataError as error:
            say(f"{error}; no vector is taken over")
    assert all(one.vectors.shape[-1] == width for one in arrays)
    found = Earlier({name: known_of(name, wanted[name], plan, arrays) for name, plan in plans.items()})
    return found if len(found) else None


def unusable(store: Embeddings) -> str:
    """Return why no other store can have the vectors of a view set's images; "" where one can."""
    if store.views.crop and not store.views.replays:
        return "a sample's regions are drawn anew for all images"
    if store.views.augment == "full":
        return "its views are mixed with those of other images, which are drawn anew"
    return ""


def stores_before(store: Embeddings) -> Iterator[Path]:
    """Yield the folder of a store, where there is one already, and those that differ in their dataset alone."""
    if (store.folder / MANIFEST).exists():
        yield store.folder
    alike = fingerprint(apart(store.identity))
    for path in sorted(store.folder.parents[2].glob(f"*/*/*/{MANIFEST}")):
        if path.parent == store.folder or path.parent.name.startswith("."):
            continue
        try:
            manifest = read_manifest(path.parent)
        except DataError:
            continue  # whoever reads it says what is wrong with it
        is_presented_alike = manifest["facts"].get(SIZE, "older version") == store.dataset.image_size
        if is_presented_alike and fingerprint(apart(manifest["identity"])) == alike:
            yield path.parent


def apart(identity: Identity) -> Identity:
    """Return the identity of a store without its dataset: of an image the pixels alone count."""
    return {key: value for key, value in identity.items() if key != "dataset"}


def has_any(folder: Path, images: Set[bytes]) -> bool:
    """Return whether a store has vectors of any of these images, by their digests; its vectors are not read for it."""
    names = [name for name in read_manifest(folder)["files"] if name.endswith(DIGESTS)]
    held = open_artifact(folder, "embeddings", only=names)
    return any(row.tobytes() in images for name in names for row in held.array(name.removesuffix(".npy")))


def arrays_of(before: Artifact) -> list[Stored]:
    """Return the arrays of a store; none of one that an older version made, which did not note of which images."""
    files, facts = before.manifest["files"], before.facts
    names = [name for name in ARRAYS if f"{name}.npy" in files and f"{name}{DIGESTS}" in files]
    vectors = {name: Vectors(before, name) for name in names}
    count = sum(int(np.prod(one.shape[:-1])) for one in vectors.values())
    return [
        Stored(
            name,
            vectors[name],
            keys(before.array(f"{name}{STEM}"), before.array("sample-flips") if name == "sample" else None),
            rounding(facts["formats"][name]),
            facts["seconds"] / count,
            facts["forward_passes"] / count,
            facts["device"],
        )
        for name in names
    ]


def stored_part(part: Artifact) -> Stored:
    """Return a part of an extraction that was not finished as an array of a store."""
    vectors, facts = Vectors(part, "vectors"), part.facts
    count = vectors.shape[0] * vectors.shape[1]
    return Stored(
        part.identity[PART][0],
        vectors,
        part.array("keys"),
        facts.get("carried", 0.0),
        facts["seconds"] / count,
        facts["forward_passes"] / count,
        facts["device"],
    )


def known_of(name: str, wanted: np.ndarray, plan: ViewPlan, arrays: list[Stored]) -> Known:
    """Return where the vectors of a new array's images are: in an array of its name, or else in the other split's."""
    # The first view of several is the image as it is, and the only one of a test image.
    usable = [one for one in arrays if (one.name == "sample") == (name == "sample")]
    usable = [one for one in usable if one.views >= plan.flips.shape[1]]
    usable.sort(key=lambda one: one.name != name)
    if not usable:
        return Known([], np.full(len(wanted), -1), np.full(len(wanted), -1))
    found = places(wanted, np.concatenate([one.keys for one in usable]))
    starts = np.cumsum([0, *(len(one.keys) for one in usable)])
    array = np.where(found < 0, -1, np.searchsorted(starts, found, side="right") - 1)
    return Known(usable, array, found - starts[array])


def keys_of(name: str, plan: ViewPlan, dataset: Dataset) -> np.ndarray:
    """Return what tells the rows of a new array apart, uint8 [N, B]."""
    return keys(dataset.digests(plan.split)[plan.rows], plan.flips[:, 0] if name == "sample" else None)


def keys(digests: np.ndarray, flips: np.ndarray | None) -> np.ndarray:
    """Return what tells rows apart, uint8 [N, B]: the image's digest and, of a sample, whether it is mirrored."""
    return np.array(digests) if flips is None else np.concatenate([digests, flips[:, None].astype(np.uint8)], axis=1)
