"""`clipkd compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.cli.options import folder_to_write
from clipkd.core.errors import InputError

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
    distinct: dict[Path, Path] = {}
    for folder in options.runs:
        distinct.setdefault(folder.resolve(), folder)
    folders = list(distinct.values())
    if len(folders) < 2:
        same = f": all that are named are {folders[0]}" if len(options.runs) > 1 else ""
        raise InputError(f"give two run folders or more{same}")
    folder_to_write(options.output)
    from clipkd.core.progress import say
    from clipkd.report.figures import compare as overlay
    from clipkd.report.figures.style import save, styled
    from clipkd.tables import compare
    from clipkd.tables.formats import write

    runs = [compare.read(folder) for folder in folders]
    made = compare.table(runs)
    write(made, options.output)
    with styled():
        save(overlay.draw(runs), options.output, "curves")
    print(compare.aligned(made), end="")
    say(f"table and curves: {options.output}")
