"""The names of timm's models, without importing it. No torch here."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

REGISTERED = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)


@cache
def registered() -> frozenset[str]:
    """Return the models that the source of the installed timm registers; another package may register more."""
    spec = find_spec("timm")  # finds the package, and runs nothing of it
    places = spec.submodule_search_locations if spec else None
    files = [path for place in places or [] for path in Path(place, "models").glob("*.py")]
    return frozenset(name for path in files for name in REGISTERED.findall(path.read_text(encoding="utf-8")))
