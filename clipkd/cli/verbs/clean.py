"""`clipkd clean`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clipkd.cli.verbs import check
from clipkd.core.errors import InputError
from clipkd.core.words import counted
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
    total = show(found)
    if not options.yes:
        what = f"{counted(len(found), 'file or folder', 'files and folders')} ({total / 1e6:.1f} MB)"
        if not sys.stdin.isatty():
            raise InputError(f"nothing was deleted: {what} would be, and there is no terminal to ask at; add --yes")
        print(f"Delete {what}? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            print("nothing was deleted")
            return
    cleaning.delete(found)
    print(f"deleted: {len(found)}")


def show(found: Sequence[Path]) -> int:
    """Print what was found, a line for each, and one line for all small files of a kind; return the bytes of all."""
    total = 0
    kinds: dict[str, list[int]] = {}
    for path in found:
        size = cleaning.size(path)
        total += size
        if kind := cleaning.kind_of_small(path):
            kinds.setdefault(kind, []).append(size)
            continue
        print(f"{size / 1e6:10.1f} MB  {path}")
        for kept in cleaning.of_others(path) if RUNS in path.parents else ():
            print(f"      kept     {kept}")
    for kind, sizes in kinds.items():
        print(f"{sum(sizes) / 1e6:10.1f} MB  {len(sizes):,} {kind}")
    return total
