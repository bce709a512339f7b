"""`clipkd push`."""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = (
    "Upload an exported student or embeddings to the Hugging Face hub, with the token from HF_TOKEN or `hf auth login`."
)
EXAMPLES = """\
examples:
  clipkd export RUN exported --format hf --license mit && clipkd push exported owner/my-student --private
  clipkd push exported-embeddings owner/digits-embeddings
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        help="folder written by `clipkd export` (--format hf or onnx) or `clipkd export-embeddings` (--format hf)",
    )
    child.add_argument("repository", metavar="OWNER/NAME", help="created if it does not exist")
    child.add_argument("--private", action="store_true", help="create the repository as a private one")


def run(options: argparse.Namespace) -> None:
    from clipkd.export.push import push

    print(push(options.folder, options.repository, options.private))
