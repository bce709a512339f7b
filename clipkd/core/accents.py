"""Accents, which text holds in one character with the letter or in one of their own: both look the same."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def composed(text: str) -> str:
    """Return a text with each accent and its letter in one character (Unicode's NFC)."""
    return unicodedata.normalize("NFC", text)


def written_otherwise(path: Path | str) -> str:
    """Return, for a path that does not exist, the end of a message that names one that looks the same; or ""."""
    found = Path(Path(path).anchor)
    for part in Path(path).relative_to(found).parts:
        if os.path.lexists(found / part):
            found /= part
            continue
        alike = sorted(name for name in names_in(found) if composed(name) == composed(part))
        if not alike:
            return ""
        found /= alike[0]
    if found == Path(path):
        return ""
    return f"; there is {str(found)!a}, which looks the same: its accents are composed in another way, rename it"


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder; none where it can't be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []
