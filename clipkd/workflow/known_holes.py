"""Known holes: versions of what is installed here that have a published vulnerability in a part that clipkd uses."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Hole:
    """A vulnerability of a package, up to the version that mends it."""

    package: str
    mended: dict[tuple[int, ...], str]
    """Release series -> the first version of it without the hole; () stands for every other series."""
    advisory: str
    what: str


HOLES = (
    Hole("torch", {(): "2.10.0"}, "CVE-2026-24747", "torch.load corrupts memory even with weights_only=True"),
    Hole("pillow", {(): "12.1.1"}, "CVE-2026-25990", "a crafted image writes outside its buffer"),
    Hole("requests", {(): "2.32.4"}, "CVE-2024-47081", "passwords of .netrc go to another host"),
    Hole("urllib3", {(): "2.6.0"}, "CVE-2025-66471", "a small answer unpacks to any size"),
    Hole("pyyaml", {(): "5.4"}, "CVE-2020-14343", "a config can run code"),
    Hole(
        "python",
        {(3, 11): "3.11.14", (3, 12): "3.12.12", (3, 13): "3.13.6", (): "3.14.0"},
        "CVE-2025-8194",
        "tarfile reads some archives for ever (clipkd reads none whose checksum is unknown)",
    ),
)


def known_holes(versions: dict[str, str] | None = None) -> list[str]:
    """Return one line for each known hole of the installed versions: what it is, and which version mends it.

    Args:
        versions: package -> version, to be looked at in place of what is installed.
    """
    return list(lines(installed() if versions is None else versions))


def lines(versions: dict[str, str]) -> Iterator[str]:
    for hole in HOLES:
        version = versions.get(hole.package)
        if version is None:
            continue
        mended = next(v for series, v in hole.mended.items() if release(version)[: len(series)] == series)
        if release(version) < release(mended):
            yield f"{hole.package} {version}: {hole.what} ({hole.advisory}); take {mended} or newer"


def installed() -> dict[str, str]:
    """Return the versions of Python and of the packages that holes are known of, where they are installed."""
    found = {"python": platform.python_version()}
    for hole in HOLES:
        try:
            found.setdefault(hole.package, importlib.metadata.version(hole.package))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def release(version: str) -> tuple[int, ...]:
    """Return a version's numbers: 2.13.0+cpu is (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
