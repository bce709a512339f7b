"""Finding things by name: one file in a package is one dataset, teacher, student, method or recipe.

A file takes part by defining `SPEC`, an object with a `name`. Nothing has to be registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from clipkd.errors import InputError, nearest


@cache
def specs(package: str) -> dict[str, Any]:
    """Return name -> SPEC for the modules of a package, in the order of their names."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        spec = getattr(importlib.import_module(f"{package}.{module.name}"), "SPEC", None)
        if spec is None:
            continue
        if spec.name in found:
            raise ValueError(f"{package}.{module.name} and another module are both named '{spec.name}'")
        found[spec.name] = spec
    return dict(sorted(found.items()))


def find(package: str, kind: str, name: str) -> Any:
    """Return the SPEC named `name`, case ignored; raise InputError naming the nearest one."""
    for known, spec in specs(package).items():
        if known.lower() == str(name).lower():
            return spec
    known_names = list(specs(package))
    raise InputError(f"unknown {kind} '{name}'{nearest(name, known_names)} (known: {', '.join(known_names)})")
