"""`clipkd report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.cli.options import file_to_write, folder_to_write, results_options
from clipkd.core.errors import InputError
from clipkd.report import write_report
from clipkd.runs.trackers import publish_tables
from clipkd.spec.config import resolved

TEXT = "Draw the figures and write the report: one page with all tables and figures, to sort, filter, print and share."
EXAMPLES = """\
examples:
  clipkd report
  clipkd report --tables results/tables                             # the tables too, from one reading of the runs
  clipkd report --partial --output so-far.html --figures so-far     # from the runs that exist
"""


def add_options(child: argparse.ArgumentParser) -> None:
    results_options(child)
    child.add_argument("--figures", type=Path, default=Path("results/figures"), help="folder to write figures into")
    child.add_argument("--output", type=Path, default=Path("results/report.html"), help="file to write")
    child.add_argument("--tables", type=Path, help="folder to write the tables into, as `clipkd tables` does")
    child.add_argument("--summary", type=Path, help="with --tables: JSON file for the mean of every cell")


def run(options: argparse.Namespace) -> None:
    output, figures = file_to_write(options.output), folder_to_write(options.figures, "--figures")
    tables = options.tables and folder_to_write(options.tables, "--tables")
    summary = options.summary and file_to_write(options.summary, "--summary", "summary.json")
    if summary and not tables:
        raise InputError("--summary is written with the tables: add --tables FOLDER")
    config = resolved(options.config)
    files = write_report(config, options.results, options.data, figures, output, options.partial, tables, summary)
    if tables:
        publish_tables(files, tables, config)
