"""`clipkd report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.config import resolved
from clipkd.options import results_options

TEXT = "Write the report: one page with the tables and figures, to sort, filter, print and hand on."
EXAMPLES = """\
examples:
  clipkd report
  clipkd report --partial --output so-far.html
"""


def add_options(child: argparse.ArgumentParser) -> None:
    results_options(child)
    child.add_argument("--figures", type=Path, default=Path("results/figures"), help="folder of the figures")
    child.add_argument("--output", type=Path, default=Path("results/report.html"), help="file to write")


def run(options: argparse.Namespace) -> None:
    from clipkd.report import write_report

    config = resolved(options.config)
    write_report(config, options.results, options.data, options.figures, options.output, options.partial)
