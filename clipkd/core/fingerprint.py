"""Fingerprints: what made an artefact, as plain JSON data, and a short digest of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

Identity = dict[str, Any]
"""What made an artefact: nested dicts, lists, strings, numbers, booleans and None only."""
LONGEST = 150
"""Characters of a value in a message; 64 hex digits and a path fit."""


def canonical(data: Any) -> str:
    """Return `data` as JSON text that is equal for equal data (sorted keys, no NaN)."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(data: Any) -> str:
    """Return the sha256 of `data`'s canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def fingerprint(identity: Identity) -> str:
    """Return the 16 hex digits that stand for `identity` in a path."""
    return digest(identity)[:16]


def differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Yield one line for each field in which two identities differ, nested fields as `a.b.c`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from differences(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
    elif canonical(found) != canonical(wanted):
        yield f"{path}: found {shown(found)}, wanted {shown(wanted)}"


def shown(value: Any) -> str:
    """Return a value as one line of a message: a long one without its middle."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 20]} ... {text[-15:]}"
