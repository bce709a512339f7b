"""The files of a local source: listed when a dataset is packed, and compared with what lies there later. No torch here.

Names, sizes and times are looked at, and the content of some, so that it costs seconds where reading the images costs
hours. Where the times of all files are others, as in a copy, they do not count. The packed dataset is sound whatever
becomes of its source: a difference is said, and refused nowhere.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipkd.core.artifacts import MANIFEST, open_artifact, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.files import printable
from clipkd.plugins.datasets import LocalFiles
from clipkd.plugins.datasets._listing import LABELS, is_hidden

LISTING = "source-files.npy"
"""In a packed dataset: an int64 row for each file of its source, in the order of the first column: hash of its path,
size in bytes, time of its last change in ns."""
SAMPLED, HEAD = 64, 1 << 20
"""So many files tell a copy from images that were made again: of each, so many bytes; a file of labels as a whole."""
SECOND = 10**9
IF_SAME = ", which is right if the files hold what they held"
SHOWN = 3
"""Files that a message names."""


@dataclass(frozen=True)
class Changes:
    """How a source differs from what a dataset was packed from."""

    added: int
    removed: int
    changed: int
    examples: tuple[str, ...]
    """Some files that were added or changed."""
    touched: int = 0
    """Changed files of which only the time is known to be another."""

    def __str__(self) -> str:
        counts = {"added": self.added, "removed": self.removed, "changed": self.changed}
        files = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        files += f" (of {self.touched:,} only the time, not the size)" if self.touched else ""
        return f"files {files}" + (f" ({', '.join(self.examples)})" if self.examples else "")

    @property
    def may_be_none(self) -> bool:
        """Whether all of it are files with another time, which may hold what they held."""
        return self.touched == self.added + self.removed + self.changed


def walk(local: LocalFiles) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path (relative to the base) and status of each file of a source that is there and may be data."""
    seen: set[tuple[int, int]] = set()
    waiting = [name for name in local.names if not is_hidden(Path(name).name)]
    while waiting:
        name = waiting.pop()
        path = local.base / name
        try:
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                yield name, status
            elif (status.st_dev, status.st_ino) not in seen:  # else a link into itself
                seen.add((status.st_dev, status.st_ino))
                inside = [entry for entry in sorted(os.listdir(path)) if not is_hidden(entry)]
                waiting += inside if name == "." else [f"{name}/{entry}" for entry in inside]
        except OSError:  # not there, or not readable: packing says so
            continue


def key(name: str) -> int:
    """Return what stands for a path in a listing."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def listed(local: LocalFiles) -> np.ndarray:
    """Return the listing of a source, int64 [N, 3] (see LISTING)."""
    rows = [(key(name), status.st_size, status.st_mtime_ns) for name, status in walk(local)]
    found = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return found[np.argsort(found[:, 0])]


def packed_from(local: LocalFiles, folder: Path, listing: np.ndarray) -> dict[str, Any]:
    """Return the fact of which files a dataset in `folder` is packed from."""
    # Both: a project that is copied as a whole takes its images along, and images elsewhere stay where they are.
    path = local.base.resolve()
    source = {
        "path": str(path),
        "from_here": os.path.relpath(path, folder.resolve()),
        "names": list(local.names),
        "sample": digests(local, sampled(name for name, _ in walk(local))),
    }
    return {"source": source | {"files": len(listing), "listing": hashlib.sha256(listing.tobytes()).hexdigest()}}


def sampled(names: Iterable[str]) -> list[str]:
    """Return some of a source's files, evenly over all, and every file of labels."""
    known = sorted(names)
    some = {known[place * len(known) // SAMPLED] for place in range(SAMPLED)} if known else set()
    return sorted(some | {name for name in known if Path(name).name == LABELS})


def digests(local: LocalFiles, names: Iterable[str]) -> dict[str, str]:
    """Return the key of a path, as text -> what stands for the content of its file; without what can't be read."""
    found = {}
    for name in names:
        if not (local.base / name).is_file():  # to open a pipe would wait for whoever writes it
            continue
        with suppress(OSError), open(local.base / name, "rb") as stream:
            content = stream.read() if Path(name).name == LABELS else stream.read(HEAD)
            found[str(key(name))] = hashlib.sha256(content).hexdigest()[:16]
    return found


def rewritten(local: LocalFiles, sample: dict[str, str]) -> np.ndarray:
    """Return the keys of the sampled files whose content is another now."""
    here = [name for name, _ in walk(local) if str(key(name)) in sample]
    now = digests(local, here)
    return np.array([int(one) for one, digest in now.items() if digest != sample[one]], dtype=np.int64)


def compare(before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the keys of the files that were added, removed and changed between two listings, and those only touched.

    Where the times of all files differ, the source was copied, and only sizes count here (and then some contents).
    """
    _, old, new = np.intersect1d(before[:, 0], now[:, 0], return_indices=True)
    sizes, others = before[old, 1] != now[new, 1], other_times(before[old, 2], now[new, 2])
    touched = np.zeros_like(sizes) if others.all() else others & ~sizes
    added, removed = np.setdiff1d(now[:, 0], before[:, 0]), np.setdiff1d(before[:, 0], now[:, 0])
    return added, removed, now[new][sizes, 0], now[new][touched, 0]


def other_times(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return where two times in ns differ; one in whole seconds, as archives keep it, has the other's second."""
    whole = (before % SECOND == 0) | (now % SECOND == 0)
    return np.where(whole, before // SECOND != now // SECOND, before != now)


def changes(packed: Path, given: Path | None = None) -> tuple[Path, Changes] | None:
    """Return the source of a packed dataset and how it differs now; None: it doesn't, is not there, or is unknown.

    Args:
        packed: the folder of the packed dataset.
        given: where the source is now; None: where it was.

    Raises:
        DataError: the packed dataset is damaged.
    """
    if not (packed / MANIFEST).exists():
        return None
    manifest = read_manifest(packed)
    fact = manifest["facts"].get("source", {})
    if LISTING not in manifest["files"] or "names" not in fact:  # packed by an older version
        return None
    # A copied project is compared with its own images, though those of the first one may still be there.
    beside = Path(os.path.normpath(packed.resolve() / fact["from_here"]))
    places = [*([given] if given else []), beside, Path(fact["path"])]
    base = next((place for place in places if place.is_dir() and not place.samefile(packed)), None)
    if base is None:
        return None
    local = LocalFiles(base, tuple(fact["names"]))
    now = listed(local)
    if not len(now) or hashlib.sha256(now.tobytes()).hexdigest() == fact["listing"]:
        return None
    before = open_artifact(packed, "dataset", only=(LISTING,)).array(LISTING.removesuffix(".npy"))
    added, removed, changed, touched = compare(before, now)
    sample = fact.get("sample", {})  # older versions have none
    touched = np.setdiff1d(touched, list(map(int, sample)))  # of the others the content is known, and decides
    changed = np.union1d(np.union1d(changed, touched), rewritten(local, sample))
    if not len(added) + len(removed) + len(changed):
        return None
    wanted = {*added.tolist(), *changed.tolist()}
    names = sorted(name for name, _ in walk(local) if key(name) in wanted) if wanted else []
    examples = tuple(map(printable, names[:SHOWN])) + (("...",) if len(names) > SHOWN else ())
    return base, Changes(len(added), len(removed), len(changed), examples, len(touched))


def other_origin(packed: Path, given: Path) -> str | None:
    """Return what a dataset was packed from, where `given` is another place, with nothing there; None: it isn't."""
    if given.exists() or not (packed / MANIFEST).exists():
        return None
    fact = read_manifest(packed)["facts"].get("source")
    if fact is None:  # packed by an older version
        return None
    places = Path(fact["path"]), packed.resolve() / fact["from_here"]
    return None if given.resolve() in [place.resolve() for place in places] else fact["path"]


def trained_on(packed: Path) -> list[Path]:
    """Return the folders of teachers that were trained on a packed dataset."""
    found = []
    for path in sorted(packed.parents[1].glob(f"teachers/[!.]*/[!.]*/{MANIFEST}")):
        with suppress(DataError):
            if packed.name in read_manifest(path.parent)["identity"].get("trained_on", {}):
                found.append(path.parent)
    return found


def stale(packed: Path, given: Path | None = None, source: str | None = None) -> str | None:
    """Return what to say of a dataset whose source has changed since it was packed, or is another and not there.

    Args:
        packed: the folder of the packed dataset.
        given: where the source is now; None: where it was.
        source: the source as the user names it, with its options.

    Returns:
        None where there is nothing to say.
    """
    try:
        if given is not None and (origin := other_origin(packed, given)):
            return f"{given} does not exist: {packed}, which was packed from {origin}, is used as it is"
        found = changes(packed, given)
    except DataError:
        return None  # whoever reads the dataset says what is wrong with it
    if found is None:
        return None
    place, different = found
    data = packed.parents[1]
    elsewhere = [] if data == Path("data") else ["--data", str(data)]
    words = ["clipkd", "download", packed.name, "--dataset-source", source or str(place), *elsewhere, "--overwrite"]
    return (
        f"{place} has changed since {packed} was packed from it: {different}. The packed images are used as they "
        f"are{IF_SAME if different.may_be_none else ''}; to take the changes in, run `{shlex.join(words)}`, then the "
        "command again"
    )


def after_change(packed: Path) -> list[str]:
    """Return what to say of a dataset that was packed again and is another now, a line each."""
    lines = [
        "what was made of it before is made again when it is next asked for; embeddings of images that are as they "
        "were are kept"
    ]
    teachers = " and ".join(map(str, trained_on(packed)))
    if teachers:
        lines.append(
            "trained on the images as they were, and used further unless one of those is a test image now; delete it "
            f"to train it again: {teachers}"
        )
    return lines
