"""The pages of the documentation: their order, titles and first sentences.

A page is any Markdown file in the project's root, `docs/`, `config/` or `data/`. A new file is found
automatically and listed under "More" until it is added to ORDER.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTENTS = "docs/README.md"
MORE = "More"
ORDER = {
    "Start": [
        "README.md",
        CONTENTS,
        "docs/tutorial.md",
        "docs/own-images.md",
        "docs/own-embeddings.md",
        "docs/install.md",
        "docs/faq.md",
    ],
    "Use": [
        "config/README.md",
        "docs/own.md",
        "docs/sweeps.md",
        "docs/teachers.md",
        "docs/few-labels.md",
        "docs/using.md",
        "docs/deployment.md",
        "docs/command-line.md",
        "docs/evaluation.md",
        "docs/paper-grid.md",
        "docs/slurm.md",
        "docs/dvc.md",
    ],
    "Understand": ["docs/method.md", "docs/embeddings.md", "docs/architecture.md", "docs/faults.md"],
    "Numbers": ["docs/demo-results.md", "docs/numbers.md", "docs/performance.md"],
    "Project": ["CONTRIBUTING.md", "CHANGELOG.md", "data/README.md"],
    MORE: [],
}
"""Group -> its pages in their order. Every page exists (tests/docs/test_links.py)."""


@dataclass(frozen=True)
class Page:
    """A Markdown file."""

    path: str
    """From the project's root, with `/`."""

    @property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        """The first heading."""
        found = re.search(r"^# (.+)$", self.text, re.MULTILINE)
        return found[1].strip() if found else self.path

    @property
    def summary(self) -> str:
        """The first sentence of the first paragraph, links as plain text."""
        paragraphs = re.split(r"\n\s*\n", self.text)
        prose = next((part for part in paragraphs if re.match(r"[A-Z`*\[](?!`)", part.strip())), "")
        plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(prose.split()))
        return re.split(r"(?<=[.!?]) ", plain, maxsplit=1)[0]


def pages(root: Path = ROOT) -> list[str]:
    """Return the paths of all pages, from the project's root."""
    folders = (root, root / "docs", root / "config", root / "data")
    return sorted(path.relative_to(root).as_posix() for folder in folders for path in folder.glob("*.md"))


def grouped() -> dict[str, list[Page]]:
    """Return every page under its group, in reading order."""
    found = pages()
    placed = {path for paths in ORDER.values() for path in paths}
    groups = {group: [Page(path) for path in paths if path in found] for group, paths in ORDER.items()}
    groups[MORE] += [Page(path) for path in found if path not in placed]
    return {group: members for group, members in groups.items() if members}
