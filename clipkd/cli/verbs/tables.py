"""`clipkd tables`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.cli.options import file_to_write, folder_to_write, results_options
from clipkd.runs.trackers import publish_tables
from clipkd.spec.config import resolved
from clipkd.tables import write_tables

TEXT = "Write the tables from run folders."
EXAMPLES = """\
examples:
  clipkd tables
  clipkd tables --partial           # from the runs that exist
"""


def add_options(child: argparse.ArgumentParser) -> None:
    results_options(child)
    child.add_argument("--output", type=Path, default=Path("results/tables"), help="folder to write into")
    child.add_argument("--summary", type=Path, help="JSON file for the mean of every cell, for `dvc metrics`")


def run(options: argparse.Namespace) -> None:
    output = folder_to_write(options.output)
    summary = options.summary and file_to_write(options.summary, "--summary", "summary.json")
    config = resolved(options.config)
    files = write_tables(config, options.results, options.data, output, options.partial, summary)
    publish_tables(files, output, config)
