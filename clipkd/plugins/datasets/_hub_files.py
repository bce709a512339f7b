"""The parquet files of a repository of the Hugging Face hub: which make a split, and their bytes, checked."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from clipkd.core.errors import DataError, InputError
from clipkd.core.files import sha256, write_json
from clipkd.core.hub_client import ETAG_TIMEOUT, bring, hub_errors
from clipkd.core.progress import say

HubDataset = Any
"""A dataset of clipkd.plugins.datasets.hub, which reads this."""
FILE = re.compile(
    r"(?:(?P<config>[^/]+)/)?(?P<split>[^/]+?)(?:-(?P<number>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?|/[^/]+)?\.parquet"
)


Files = dict[str, list[tuple[str, str | None]]]
"""Split -> its files' names and sha256."""


def files_of(spec: HubDataset, listing: Path) -> Files:
    """Return the files of each split at the commit, as the listing has them, or as the hub says."""
    from huggingface_hub import HfApi

    if listing.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # of another version, or cut off: asked again
            written = json.loads(listing.read_text())
            if written["of"] == described(spec):
                return {split: [(name, sha256) for name, sha256 in files] for split, files in written["files"].items()}
    with hub_errors(spec, "the list of files"):
        info = HfApi(library_name="clipkd").dataset_info(
            spec.hub_id, revision=spec.revision, files_metadata=True, timeout=ETAG_TIMEOUT
        )
    found: dict[str, dict[str, list[tuple[str, str | None]]]] = {}
    shards: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for file in sorted(info.siblings or [], key=lambda file: file.rfilename):
        match = FILE.fullmatch(file.rfilename)
        if match:
            large = (file.rfilename, file.lfs.sha256 if file.lfs else None)
            config, split = match["config"] or "", match["split"]
            found.setdefault(config, {}).setdefault(split, []).append(large)
            if match["number"]:
                shards.setdefault((config, split), []).append((int(match["number"]), int(match["count"])))
    where = f"dataset '{spec.name}': {spec.hub_id} at {spec.revision}"
    if not found:
        raise InputError(
            f"{where} has no parquet files; the hub keeps a conversion of most datasets in their branch "
            "refs/convert/parquet: pin a commit of that branch"
        )
    if not spec.config and len(found) > 1:
        raise InputError(f"{where} has several parts: choose one with ?config= ({', '.join(map(repr, found))})")
    config = spec.config or next(iter(found))
    if config not in found:
        raise InputError(f"{where} has no part '{config}' (it has {', '.join(map(repr, found))})")
    missing = [split for split in (spec.train, spec.test) if split not in found[config]]
    if missing:
        raise InputError(
            f"{where} has no split '{missing[0]}' (it has {', '.join(map(repr, found[config]))}): "
            "say ?train= and &test="
        )
    for split in (spec.train, spec.test):
        check_shards(where, found[config][split], shards.get((config, split), []))
    return found[config]


def described(spec: HubDataset) -> dict[str, str]:
    """Return what a listing is of: a commit never changes."""
    return {key: getattr(spec, key) for key in ("hub_id", "revision", "config", "train", "test")}


def write_listing(spec: HubDataset, listing: Path, files: Files) -> None:
    """Write which files a dataset has, so that it is packed without asking the hub."""
    listing.parent.mkdir(parents=True, exist_ok=True)
    write_json(listing, {"of": described(spec), "files": files})


def check_shards(where: str, files: list[tuple[str, str | None]], shards: list[tuple[int, int]]) -> None:
    """Raise InputError where the files of a split are not its shards 0 to n-1, each once.

    Args:
        where: the dataset, in the words of a message.
        files: names of the split's files, and their sha256.
        shards: number and count that those names tell, of those that tell any.
    """
    whole = [(number, len(files)) for number in range(len(files))]
    if shards and sorted(shards) != whole:
        names = ", ".join(name for name, _ in files[:6]) + (", ..." if len(files) > 6 else "")
        raise InputError(
            f"{where} has shards of a split that do not make a whole: {names}; several pushes are mixed there, or some "
            "are missing: pin a commit that has one complete set"
        )


def fetch(spec: HubDataset, name: str, expected: str | None) -> Path:
    """Return the path of one file in the Hugging Face cache, downloaded if necessary, its bytes checked."""
    for again in (False, True):
        path = bring(spec, name, again)
        actual = sha256(path) if expected else None
        if actual == expected:
            return path
        say(f"{spec.title}: {name} in the Hugging Face cache is damaged")
    raise DataError(f"{name} of {spec.hub_id} is not the expected file: sha256 expected {expected}, actual {actual}")
