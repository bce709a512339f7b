"""Whether a packed dataset was packed from the folder that is given."""

from __future__ import annotations

import os
from pathlib import Path

from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.errors import DataError, InputError
from clipkd.plugins.datasets import DatasetSpec


def refuse_other_source(spec: DatasetSpec, packed: Path, source: str | None) -> None:
    """Raise InputError where `source` is another folder than the dataset that lies in `packed` was packed from.

    Only where both are there: packed data are used without the originals too, as DVC brings them. A damaged dataset
    is packed again, and refused here no more than an absent one.
    """
    given = spec.folder(source)
    if given is None or not os.path.isdir(given) or not (packed / MANIFEST).exists():
        return
    try:
        fact = read_manifest(packed)["facts"].get("source")  # older manifests have no such fact
    except DataError:
        return
    if fact is None or not os.path.isdir(fact["path"]):
        return
    same = (Path(fact["path"]), packed.resolve() / fact["from_here"], packed)
    if not any(os.path.isdir(path) and path.samefile(given) for path in same):
        raise InputError(
            f"dataset '{spec.name}' was packed from {fact['path']}, not from {given}: remove {packed} to pack it "
            "again, or give the folder another name"
        )
