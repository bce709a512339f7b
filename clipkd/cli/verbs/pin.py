"""`clipkd pin`."""

from __future__ import annotations

import argparse

from clipkd.plugins import teachers

TEXT = "Ask the hub for a teacher's current commit and lock it in config/teachers.lock.json."
EXAMPLES = """\
example:
  clipkd pin vit-b32-in21k
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("teacher", help="a teacher's name, for example vit-b32-in21k")


def run(options: argparse.Namespace) -> None:
    from clipkd.embeddings import teacher_checkpoint  # with torch, which --help does not need

    entry = teacher_checkpoint.pin(options.teacher)
    print(f"{teachers.LOCK}: {options.teacher} is pinned at {entry['revision']}")
