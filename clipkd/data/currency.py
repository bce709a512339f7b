"""Currency: whether what was made of a dataset is of the images and labels that are packed now. No torch here."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import fingerprint
from clipkd.plugins.datasets import DatasetSpec


def packed_content(spec: DatasetSpec, packed: Path) -> str | None:
    """Return the digest of a packed dataset's content; None where it is not there, damaged, or another of its name."""
    with suppress(DataError, KeyError):
        if (packed / MANIFEST).exists():
            manifest = read_manifest(packed)
            if manifest["fingerprint"] == fingerprint(spec.identity()):
                return str(manifest["facts"]["content"])
    return None


def is_of(made: Path, content: str | None) -> bool:
    """Return whether an artefact is there and was made of a dataset of this content; None: of any.

    One that is damaged, or does not say, counts: whoever opens it says what is wrong with it.
    """
    if not (made / MANIFEST).exists():
        return False
    if content is None:
        return True
    with suppress(DataError):
        return bool(read_manifest(made)["facts"].get("dataset_content", content) == content)
    return True


def is_current(made: Path, spec: DatasetSpec, packed: Path) -> bool:
    """Return whether an artefact is there and was made of the dataset as it is packed now; of any, where it isn't."""
    return (made / MANIFEST).exists() and is_of(made, packed_content(spec, packed))
