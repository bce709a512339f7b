"""`clipkd check`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.spec.cells import expand
from clipkd.spec.config import load

TEXT = "Check config files before Snakemake reads them: a config file can make Snakemake run code."
EXAMPLES = """\
examples:
  clipkd check
  clipkd check config/demo.yaml
"""
BASE = Path("config/config.yaml")
DATA = Path("data")
"""Where the workflow keeps its data."""


def add_options(child: argparse.ArgumentParser) -> None:
    """Add the files that a config is made of."""
    child.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="as for --configfile: each is merged over those before it"
    )
    child.add_argument("--base", type=Path, default=BASE, help="the config that Snakemake reads first")


def files_of(options: argparse.Namespace) -> list[Path]:
    """Return the files in the order in which they are merged, the base first and once."""
    return [options.base, *(path for path in options.files if path.resolve() != options.base.resolve())]


def run(options: argparse.Namespace) -> None:
    files = files_of(options)
    cells, left_out = expand(load(files, data=DATA))
    for reason in left_out:
        print(f"left out: {reason}")
    print(f"{', '.join(map(str, files))}: {len(cells)} runs")
