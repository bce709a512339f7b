"""`clipkd report`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from clipkd.cli.options import file_to_write, results_options
from clipkd.report import write_report
from clipkd.spec.config import resolved

TEXT = "Write the report: one page with all tables and figures, to sort, filter, print and share."
EXAMPLES = """\
examples:
  clipkd report
  clipkd figures --partial && clipkd report --partial --output so-far.html
"""


def add_options(child: argparse.ArgumentParser) -> None:
    results_options(child)
    child.add_argument("--figures", type=Path, default=Path("results/figures"), help="folder of the figures")
    child.add_argument("--output", type=Path, default=Path("results/report.html"), help="file to write")


def run(options: argparse.Namespace) -> None:
    output = file_to_write(options.output)
    config = resolved(options.config)
    write_report(config, options.results, options.data, options.figures, output, options.partial, drawing(options))


def drawing(options: argparse.Namespace) -> str:
    """Return the command that draws this report's figures, ready to paste."""
    given = {
        "--config": (options.config, "results/config.json"),
        "--results": (options.results, "results"),
        "--data": (options.data, "data"),
        "--output": (options.figures, "results/figures"),
    }
    words = [word for name, (path, usual) in given.items() if path != Path(usual) for word in (name, str(path))]
    return shlex.join(["clipkd", "figures", *["--partial"] * options.partial, *words])
