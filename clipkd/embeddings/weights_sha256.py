"""Which weights: the sha256 that tells two teachers of one name apart, in all that is made with them. No torch here.

A teacher that is trained here has other weights on another machine, or when it is trained again, and the same
identity. So whatever is made with a teacher keeps the sha256 of its weights, and what is of two teachers is not mixed.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from clipkd.core.artifacts import MANIFEST, Artifact, read_manifest
from clipkd.core.errors import DataError
from clipkd.core.fingerprint import Identity, fingerprint
from clipkd.core.hub_client import WEIGHTS

FACT = "weights_sha256"
"""In the manifests of parts, embeddings, prototypes and heads; older ones don't have it."""
SHOWN = 12
"""Digits of a sha256 in a message."""


def weights_of(artifact: Artifact) -> str | None:
    """Return the sha256 of the weights that an artefact holds or was made with; None: it does not say."""
    return artifact.manifest["files"].get(WEIGHTS, {}).get("sha256") or artifact.facts.get(FACT)


def weights_in(folder: Path) -> str | None:
    """Return `weights_of` the artefact in a folder; None too where there is none, or a damaged one."""
    with suppress(DataError):
        return weights_of(Artifact(folder, read_manifest(folder)))
    return None


def as_fact(sha256: str | None) -> dict[str, str]:
    """Return a manifest's fact of the weights; nothing where they are unknown."""
    return {FACT: sha256} if sha256 else {}


def teacher_fingerprint(identity: Identity) -> str:
    """Return the fingerprint of the teacher in the identity of what was made with it, or of a teacher's own."""
    made_of = identity.get("embeddings", identity)
    return fingerprint(made_of.get("teacher", made_of))


def refuse_other_weights(source: Path, made: Path) -> None:
    """Raise DataError where an artefact was made with other weights than those in its source, both being there."""
    theirs, mine = weights_in(source), weights_in(made)
    if theirs and mine and theirs != mine:
        raise DataError(
            f"{made / MANIFEST} was made with other weights of its teacher (sha256 {mine[:SHOWN]}...) than "
            f"{source / MANIFEST} says now ({theirs[:SHOWN]}...): two teachers of one name must not be mixed; restore "
            f"the teacher that it was made with, or delete {made} to regenerate it"
        )
