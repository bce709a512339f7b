"""`clipkd report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.cli.options import file_to_write, folder_to_write, results_options
from clipkd.report import write_report
from clipkd.spec.config import resolved

TEXT = "Draw the figures and write the report: one page with all tables and figures, to sort, filter, print and share."
EXAMPLES = """\
examples:
  clipkd report
  clipkd report --partial --output so-far.html --figures so-far     # from the runs that exist
"""


def add_options(child: argparse.ArgumentParser) -> None:
    results_options(child)
    child.add_argument("--figures", type=Path, default=Path("results/figures"), help="folder to write figures into")
    child.add_argument("--output", type=Path, default=Path("results/report.html"), help="file to write")


def run(options: argparse.Namespace) -> None:
    output, figures = file_to_write(options.output), folder_to_write(options.figures, "--figures")
    write_report(resolved(options.config), options.results, options.data, figures, output, options.partial)
