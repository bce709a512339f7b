"""`clipkd init`."""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = "Lay the workflow's files (Snakefile, workflow/, config/, profiles/) into a folder: a project without a clone."
EXAMPLES = """\
example:
  clipkd init photos && cd photos && snakemake --cores all --configfile config/demo.yaml
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument(
        "folder", metavar="FOLDER", type=Path, nargs="?", default=Path(), help="where to; no file there is overwritten"
    )


def run(options: argparse.Namespace) -> None:
    from clipkd.workflow.project import lay

    copied, count = lay(options.folder)
    there = f", {count - copied} of them were there already" if copied < count else ""
    print(f"{options.folder.resolve()}: {count} files{there}. Next, in this folder:")
    print("  snakemake --cores all --configfile config/demo.yaml    # a few minutes, no network, no GPU")
    print("  config/README.md explains every key of a config of your own")
