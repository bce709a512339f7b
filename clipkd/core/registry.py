"""Finding things by name: one file in a package is one dataset, teacher, student, method or recipe.

A file takes part by defining `SPEC`, an object with a `name`. Nothing has to be registered. A file of another installed
package takes part by an entry point of the group `clipkd.<folder in clipkd/plugins>` that names its module.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from itertools import chain
from types import ModuleType
from typing import Any

from clipkd.core.errors import InputError, nearest

PLUGINS = "clipkd.plugins."
"""The packages that other distributions add to."""
LETTERS = {"methods": "[A-Za-z]+(-[A-Za-z]+)*"}
"""What names look like, as they are parts of paths; else:"""
NAME = "[a-z0-9]+(-[a-z0-9]+)*"


def own_modules(package: str) -> dict[str, ModuleType]:
    """Return name -> the module of a package itself that defines the SPEC of that name, in the order of the names."""
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
def installed() -> dict[str, list[EntryPoint]]:
    """Return package -> the entry points that installed distributions add to it.

    Raises:
        InputError: one is of a group that does not exist.
    """
    found: dict[str, list[EntryPoint]] = {}
    known = [one.name for one in pkgutil.iter_modules(importlib.import_module(PLUGINS[:-1]).__path__)]
    every: Any = entry_points()
    for point in chain.from_iterable(every.values()) if isinstance(every, dict) else every:  # Python 3.11: by group
        start, _, kind = point.group.partition(".")
        if start == "clipkd" and kind not in known:
            raise refused(point, f"unknown group{nearest(kind, known)} (known: clipkd. and {', '.join(known)})")
        if start == "clipkd":
            found.setdefault(PLUGINS + kind, []).append(point)
    return {package: sorted(points, key=lambda point: (point.name, point.value)) for package, points in found.items()}


@cache
def outside(package: str) -> dict[str, tuple[ModuleType, str]]:
    """Return name -> module and distribution of what other distributions add to a package, in the order of the names.

    Raises:
        InputError: one of them can't be used; names its distribution.
    """
    if not package.startswith(PLUGINS):
        return {}
    known: dict[str, ModuleType] = own_modules(package)
    found: dict[str, tuple[ModuleType, str]] = {}
    for point in installed().get(package, ()):
        module = loaded(point, package)
        name = module.SPEC.name
        if name.lower() in {one.lower() for one in [*known, *found]}:
            other = found[name][1] if name in found else "clipkd itself"
            raise refused(point, f"'{name}' is the name of one that {other} has")
        found[name] = (module, distribution(point))
    return dict(sorted(found.items()))


def loaded(point: EntryPoint, package: str) -> ModuleType:
    """Return the module of an entry point, its SPEC checked."""
    try:
        module = point.load()
    except (Exception, SystemExit) as error:  # whatever a module of somebody else's does
        raise refused(point, f"{type(error).__name__}: {error}".partition("\n")[0]) from None
    spec, kind = getattr(module, "SPEC", None), importlib.import_module(package).SPEC_CLASS
    if not isinstance(module, ModuleType) or not isinstance(spec, kind):
        raise refused(point, f"it is not a module with a SPEC of class {kind.__name__}")
    letters = LETTERS.get(package.removeprefix(PLUGINS), NAME)
    if not isinstance(spec.name, str) or not re.fullmatch(letters, spec.name):
        raise refused(point, f"invalid name '{spec.name}': it must match {letters}")
    return module


def distribution(point: EntryPoint) -> str:
    """Return the name of the distribution that an entry point belongs to."""
    return point.dist.name if point.dist else "an unknown package"


def refused(point: EntryPoint, why: str) -> InputError:
    """Return the error about an entry point that can't be used."""
    version = f" {point.dist.version}" if point.dist else ""
    where = f"{point.group}: {point.name} = {point.value}"
    owner = distribution(point)
    return InputError(f"plug-in of {owner}{version} ({where}): {why}; repair or uninstall {owner}")


@cache
def modules(package: str) -> dict[str, ModuleType]:
    """Return name -> the module that defines the SPEC of that name: clipkd's own, then those of other distributions."""
    return own_modules(package) | {name: module for name, (module, _) in outside(package).items()}


def origin(package: str, name: str) -> str:
    """Return the distribution that adds a name to a package; "": clipkd itself."""
    return outside(package)[name][1] if name in outside(package) else ""


def distributions() -> list[str]:
    """Return the names of the distributions that add something."""
    return sorted({distribution(point) for points in installed().values() for point in points if point.dist})


@cache
def specs(package: str) -> dict[str, Any]:
    """Return name -> SPEC for the modules of a package, in their order."""
    return {name: module.SPEC for name, module in modules(package).items()}


def line(package: str, name: str) -> str:
    """Return the first line of what the module of a SPEC says about it."""
    return (modules(package)[name].__doc__ or "").strip().split("\n")[0]


def find(package: str, kind: str, name: str) -> Any:
    """Return the SPEC named `name`, case ignored; raise InputError naming the nearest one."""
    return among(specs(package), kind, name)


def among(known: Mapping[str, Any], kind: str, name: str) -> Any:
    """Return what is known by a name, case ignored; raise InputError naming the nearest one."""
    if name in known:
        return known[name]
    for one, spec in known.items():
        if one.lower() == str(name).lower():
            return spec
    raise InputError(f"unknown {kind} '{name}'{nearest(name, list(known))} (known: {', '.join(known)})")
