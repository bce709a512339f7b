"""`clipkd clean`."""

from __future__ import annotations

import argparse
import sys

from clipkd.cli.verbs import check
from clipkd.core.errors import InputError
from clipkd.spec.config import load
from clipkd.spec.layout import RUNS
from clipkd.workflow import cleaning

TEXT = """Delete what the workflow made for a config: its runs, their logs, and its tables, figures and report. Lists
everything first and asks. Results of other configs are kept."""
EXAMPLES = """\
examples:
  clipkd clean config/demo.yaml
  clipkd clean config/demo.yaml --data --yes
"""


def add_options(child: argparse.ArgumentParser) -> None:
    check.add_options(child)
    child.add_argument(
        "--data",
        action="store_true",
        help="also its packed datasets, teachers and embeddings, which other configs may use",
    )
    child.add_argument("--yes", action="store_true", help="delete without asking")


def run(options: argparse.Namespace) -> None:
    files = check.files_of(options)
    config = load(files)
    for folder in cleaning.of_other_settings(config):
        print(f"kept: {folder}, trained with other settings")
    found = cleaning.made_for(config, with_data=options.data)
    if not found:
        print(f"nothing there that was made for {', '.join(map(str, files))}")
        return
    total = 0
    for path in found:
        size = cleaning.size(path)
        total += size
        print(f"{size / 1e6:10.1f} MB  {path}")
        for kept in cleaning.of_others(path) if RUNS in path.parents else ():
            print(f"      kept     {kept}")
    question = f"Delete these {len(found)} ({total / 1e6:.1f} MB)?"
    if not options.yes:
        if not sys.stdin.isatty():
            raise InputError(f"{question} Nobody can answer here: add --yes")
        print(f"{question} [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            print("nothing was deleted")
            return
    cleaning.delete(found)
    print(f"deleted: {len(found)}")
