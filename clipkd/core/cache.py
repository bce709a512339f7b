"""The user's cache folder: what lies there may be deleted at any time, and is made again."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """Return the user's cache folder; RuntimeError where the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
