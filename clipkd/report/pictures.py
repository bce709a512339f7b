"""Figures as the report holds them: inside the page, with their captions."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

WIDTH = re.compile(rb'<svg\b[^>]*?\swidth="(\d+(?:\.\d+)?)(pt|px|)"')


@dataclass(frozen=True)
class Picture:
    """A figure as a data URL."""

    source: str
    caption: str
    width: float | None
    """In rem (16 pixels, 12 points); None where the SVG has none."""

    @classmethod
    def read(cls, path: Path, caption: str) -> Picture:
        """Read an SVG."""
        svg = path.read_bytes()
        return cls(f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}", caption, natural_width(svg))


def natural_width(svg: bytes) -> float | None:
    """Return how wide an SVG asks to be, in rem; None where it does not say."""
    found = WIDTH.search(svg)
    return float(found[1]) / (12 if found[2] == b"pt" else 16) if found else None
