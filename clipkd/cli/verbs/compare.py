"""`clipkd compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.cli.options import folder_to_write
from clipkd.core.errors import InputError
from clipkd.core.progress import say
from clipkd.runs.unused import is_unused

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
        if is_unused(folder):
            say(f"skipped: {folder} holds no run, finished or not")
        else:
            distinct.setdefault(folder.resolve(), folder)
    if len(distinct) < 2:
        same = "".join(f"; these are all {one}" for one in distinct.values()) if len(options.runs) > 1 else ""
        raise InputError(f"at least two run folders are needed{same}")
    folder_to_write(options.output)
    from clipkd.report.figures import compare as curves
    from clipkd.report.figures import style
    from clipkd.tables import compare, formats

    runs = [compare.read(folder) for folder in distinct.values()]
    table = compare.table(runs)
    formats.write(table, options.output)
    with style.styled():
        style.save(curves.draw(runs), options.output, "curves")
    print(compare.aligned(table), end="")
    say(f"table and curves: {options.output}")
