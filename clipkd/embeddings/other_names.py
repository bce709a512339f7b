"""One teacher under several names: its vectors are the same whatever a config calls it. No torch here."""

from __future__ import annotations

import shutil
from pathlib import Path

from clipkd.core.artifacts import MANIFEST, building, open_artifact
from clipkd.core.errors import DataError
from clipkd.core.progress import say
from clipkd.data.currency import is_of
from clipkd.embeddings.weights_sha256 import weights_in, weights_of
from clipkd.spec.layout import Embeddings


def is_copied(store: Embeddings, content: str, teacher: Path) -> bool:
    """Copy a store that the same teacher has under another name, if there is one; return whether there was.

    Args:
        store: what is to be made.
        content: of the dataset, as it is packed now.
        teacher: the folder of the teacher's checkpoint, which may not be there.
    """
    for folder in sorted(store.folder.parents[1].glob(f"*/{store.folder.name}")):
        if folder == store.folder or not is_of(folder, content):
            continue
        try:
            other = open_artifact(folder, "embeddings", store.identity)
        except DataError:
            continue  # whoever reads it says what is wrong with it
        weights = weights_in(teacher)
        if weights and weights_of(other) != weights:
            continue
        with building(store.folder, "embeddings", store.identity, replace=(store.folder / MANIFEST).exists()) as draft:
            for name in other.manifest["files"]:
                shutil.copyfile(other.file(name), draft.path / name)
            draft.facts |= other.facts
        say(f"{store.folder} is copied from {folder}: the same teacher by another name")
        return True
    return False
