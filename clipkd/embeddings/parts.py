"""Parts of an extraction: finished pieces that a killed or divided extraction leaves, each an artefact.

They lie in a hidden folder beside the store that they become, and go when they are joined.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import MANIFEST, Artifact, building, open_artifact, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity
from clipkd.core.lock import Busy, acquire
from clipkd.core.progress import say
from clipkd.data.currency import is_of
from clipkd.embeddings.weights_sha256 import SHOWN, weights_in
from clipkd.spec.layout import Embeddings

SECONDS_BETWEEN_WORDS = 60.0
PART, CONTENT = "part", "dataset_content"
"""What a part's identity has beside its store's: array and rows, and, as only that tells folders of images apart, the
content of its dataset."""
VIEWS = 4096
"""Views of a part at most: what a killed extraction loses."""


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of one stored array, all their views."""

    array: str
    start: int
    stop: int

    def batches(self, size: int) -> Iterator[slice]:
        """Yield the places of each batch of `size` rows."""
        for start in range(self.start, self.stop, size):
            yield slice(start, min(start + size, self.stop))


def plan(shapes: Mapping[str, tuple[int, ...]]) -> list[Part]:
    """Return the parts of arrays of these shapes [N, V], in a fixed order."""
    planned = []
    for name, (count, views) in shapes.items():
        rows = max(1, VIEWS // views)
        planned += [Part(name, start, min(start + rows, count)) for start in range(0, count, rows)]
    return planned


def folder_of(store: Embeddings) -> Path:
    """Return where a store's parts lie."""
    return store.folder.with_name(f".{store.folder.name}.parts")


def place(store: Embeddings, part: Part, content: str) -> tuple[Path, Identity]:
    """Return a part's folder and identity."""
    identity = store.identity | {PART: [part.array, part.start, part.stop], CONTENT: content}
    return folder_of(store) / f"{part.array}-{part.start:09d}", identity


def is_there(store: Embeddings, part: Part, content: str) -> bool:
    """Return whether a part is finished; one of other images is made again, and so is a damaged one, aloud."""
    folder, identity = place(store, part, content)
    if not (folder / MANIFEST).exists():
        return False
    try:
        if read_manifest(folder)["identity"].get(CONTENT) != content:
            return False
        open_artifact(folder, "part", identity)
    except DataError as error:
        say(f"{error}\n{folder}: making it again")
        return False
    return True


def refuse_other_weights(store: Embeddings, planned: Iterable[Part], content: str, sha256: str | None) -> None:
    """Raise DataError where there are parts that other weights of the teacher than those of this sha256 made."""
    folders = [place(store, part, content)[0] for part in planned]
    others = [other for other in map(weights_in, folders) if other and other != sha256]
    if others and sha256:
        raise DataError(
            f"{folder_of(store)}: {len(others)} of {len(folders)} parts were made with other weights of teacher "
            f"'{store.teacher.name}' (sha256 {others[0][:SHOWN]}...) than it has now ({sha256[:SHOWN]}...): rows of "
            f"two teachers make no store; restore the teacher that they were made with, or delete {folder_of(store)} "
            "to extract again"
        )


def load(store: Embeddings, part: Part, content: str) -> Artifact:
    """Open a finished part."""
    folder, identity = place(store, part, content)
    return open_artifact(folder, "part", identity)


def save(
    store: Embeddings, part: Part, content: str, vectors: np.ndarray, keys: np.ndarray, facts: dict[str, Any]
) -> None:
    """Store a part's vectors, float32 [rows, V, D], and what tells their images apart, uint8 [rows, B]."""
    folder, identity = place(store, part, content)
    with building(folder, "part", identity) as draft:
        np.save(draft.path / "vectors.npy", vectors)
        np.save(draft.path / "keys.npy", keys)
        draft.facts |= facts


def of_other_images(store: Embeddings, content: str) -> Iterator[Artifact]:
    """Yield the finished parts that an extraction of a store left when its dataset had another content."""
    for path in sorted(folder_of(store).glob(f"[!.]*/{MANIFEST}")):
        try:
            manifest = read_manifest(path.parent)
            identity = dict(manifest["identity"])
            is_other = identity.pop(CONTENT, content) != content
            if (
                is_other
                and identity | {PART: None} == store.identity | {PART: None}
                and "keys.npy" in manifest["files"]
            ):
                yield open_artifact(path.parent, "part")
        except DataError as error:
            say(f"{error}; no vector is taken over")


def taken(store: Embeddings, missing: Sequence[Part], content: str) -> Iterator[Part]:
    """Yield the parts to make, each while its lock is held; wait for those that another process is making.

    One that another process finished meanwhile is not yielded; none is once the store itself is there, of this content.
    """
    waiting = list(missing)
    said = -SECONDS_BETWEEN_WORDS
    while waiting:
        busy: list[Part] = []
        for part in waiting:
            if is_of(store.folder, content):
                return
            folder = place(store, part, content)[0]
            lock = folder.with_name(f".{folder.name}.lock")
            lock.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                try:
                    stack.enter_context(acquire(lock))
                except Busy as error:
                    busy.append(part)
                    reason = error
                    continue
                if not is_there(store, part, content) and not is_of(store.folder, content):
                    yield part
        if len(busy) == len(waiting):
            if time.monotonic() - said > SECONDS_BETWEEN_WORDS:
                said = time.monotonic()
                say(f"another process is at work on the rest: {reason}")
            time.sleep(1)
        waiting = busy


def remove(store: Embeddings) -> None:
    """Remove a store's parts."""
    shutil.rmtree(folder_of(store), ignore_errors=True)
