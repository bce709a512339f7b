"""`clipkd figures`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.cli.options import folder_to_write, results_options
from clipkd.spec.config import resolved

TEXT = "Draw the figures from run folders."
EXAMPLES = """\
examples:
  clipkd figures
  clipkd figures --partial          # from the runs that exist
"""


def add_options(child: argparse.ArgumentParser) -> None:
    results_options(child)
    child.add_argument("--output", type=Path, default=Path("results/figures"), help="folder to write into")


def run(options: argparse.Namespace) -> None:
    from clipkd.report.figures.write import write_figures

    output = folder_to_write(options.output)
    write_figures(resolved(options.config), options.results, options.data, output, options.partial)
