"""Write the list of pages into docs/README.md: `python docs/contents.py [--check]`."""

from __future__ import annotations

import os
import sys

from generated import ROOT, main
from pages import CONTENTS, grouped


def block() -> str:
    """Return the list: one line a page, with its first sentence."""
    parts = []
    for group, members in grouped().items():
        lines = [f"**{group}**", ""]
        for page in members:
            if page.path != CONTENTS:
                link = os.path.relpath(ROOT / page.path, ROOT / "docs").replace(os.sep, "/")
                lines.append(f"- [{page.title}]({link}): {page.summary}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(ROOT / CONTENTS, "contents", block(), str(__doc__)))
