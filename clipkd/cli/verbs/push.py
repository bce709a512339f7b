"""`clipkd push`."""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = "Upload an exported folder to the Hugging Face hub, with the token of HF_TOKEN or `hf auth login`."
EXAMPLES = """\
example:
  clipkd export RUN exported --format hf --license mit && clipkd push exported owner/my-student --private
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("folder", metavar="FOLDER", type=Path, help="what `clipkd export --format hf` wrote")
    child.add_argument("repository", metavar="OWNER/MODEL", help="made where it does not exist")
    child.add_argument("--private", action="store_true", help="a repository that is made is not public")


def run(options: argparse.Namespace) -> None:
    from clipkd.export.push import push

    print(push(options.folder, options.repository, options.private))
