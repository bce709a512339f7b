"""Finding things by name: one file in a package is one dataset, teacher, student, method or recipe.

A file takes part by defining `SPEC`, an object with a `name`. Nothing has to be registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

from clipkd.core.errors import InputError, nearest


@cache
def modules(package: str) -> dict[str, ModuleType]:
    """Return name -> the module of a package that defines the SPEC of that name, in the order of the names."""
    found: dict[str, ModuleType] = {}
    for entry in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if entry.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{entry.name}")
        spec = getattr(module, "SPEC", None)
        if spec is None:
            continue
        if spec.name in found:
            raise ValueError(f"{package}.{entry.name} and another module are both named '{spec.name}'")
        found[spec.name] = module
    return dict(sorted(found.items()))


@cache
def specs(package: str) -> dict[str, Any]:
    """Return name -> SPEC for the modules of a package, in the order of their names."""
    return {name: module.SPEC for name, module in modules(package).items()}


def line(package: str, name: str) -> str:
    """Return the first line of what the module of a SPEC says about it."""
    return (modules(package)[name].__doc__ or "").strip().split("\n")[0]


def find(package: str, kind: str, name: str) -> Any:
    """Return the SPEC named `name`, case ignored; raise InputError naming the nearest one."""
    return among(specs(package), kind, name)


def among(known: Mapping[str, Any], kind: str, name: str) -> Any:
    """Return what is known by a name, case ignored; raise InputError naming the nearest one."""
    for one, spec in known.items():
        if one.lower() == str(name).lower():
            return spec
    raise InputError(f"unknown {kind} '{name}'{nearest(name, list(known))} (known: {', '.join(known)})")
