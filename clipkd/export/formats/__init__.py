"""Exports: one file is one format that a trained student can be handed on in. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.registry import find, specs

if TYPE_CHECKING:
    from clipkd.export.write import Source

EXPORT = "export"
"""The kind in an export's manifest."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Format:
    """A format."""

    name: str
    title: str
    is_checked: bool = False
    """True where `write` compares what it wrote with the student, on real images."""

    def write(self, source: Source, folder: Path) -> dict[str, Any]:
        """Write the files; return what is worth keeping in the manifest.

        Args:
            source: the student, and what is known of it.
            folder: an empty folder; it takes its final place only when this returns.
        """
        raise NotImplementedError


def names() -> list[str]:
    """Return the names of all formats."""
    return list(specs(__name__))


def get(name: str) -> Format:
    """Return the format `name`, case ignored; InputError names the nearest known one."""
    return find(__name__, "format", name)
