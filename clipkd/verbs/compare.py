"""`clipkd compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.errors import InputError

TEXT = "Compare runs: which settings differ, what was reached, what it cost; and their learning curves in one figure."
EXAMPLES = """\
example:
  clipkd compare results/runs/corrected/digits/tiny-32/*/*/seed0
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="run folders, two or more")
    child.add_argument(
        "--output",
        type=Path,
        default=Path("results/comparison"),
        help="folder for the table (CSV, Markdown, LaTeX, HTML) and the curves (PNG, SVG)",
    )


def run(options: argparse.Namespace) -> None:
    folders = list(dict.fromkeys(options.runs))
    if len(folders) < 2:
        raise InputError("give two run folders or more")
    from clipkd import side_by_side
    from clipkd.figures import overlay
    from clipkd.figures.style import save, styled
    from clipkd.progress import say

    shown = [side_by_side.read(folder) for folder in folders]
    made = side_by_side.table(shown)
    made.write(options.output)
    with styled():
        save(overlay.draw(shown), options.output, "curves")
    print(side_by_side.aligned(made), end="")
    say(f"table and curves: {options.output}")
