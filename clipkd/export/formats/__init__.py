"""Export formats: one file is one format. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.registry import find, specs

if TYPE_CHECKING:
    from clipkd.export.source import ExportSource


@dataclass(frozen=True)
class Format:
    """A format."""

    name: str
    title: str
    is_checked: bool = False
    """Whether `write` compares its output with the student, on real images."""

    def write(self, source: ExportSource, folder: Path) -> dict[str, Any]:
        """Write the files; return what is worth keeping in the manifest.

        Args:
            source: the student and its run.
            folder: an empty folder; it takes its final place only when this returns.
        """
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Return what else makes the files, for the export's identity."""
        return {}


def names() -> list[str]:
    """Return the names of all formats."""
    return list(specs(__name__))


def get(name: str) -> Format:
    """Return the format `name`, case ignored; InputError names the nearest known one."""
    found: Format = find(__name__, "format", name)
    return found
