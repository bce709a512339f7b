"""`clipkd verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.core.errors import DataError, InputError
from clipkd.runs.verification import verify

TEXT = "Check every byte of all artefacts and results against their manifests."
EXAMPLES = """\
examples:
  clipkd verify
  clipkd verify data/embeddings/digits
"""
FOLDERS = [Path("data"), Path("results")]


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument(
        "folders", nargs="*", type=Path, default=FOLDERS, metavar="FOLDER", help="where to look, with all below it"
    )


def run(options: argparse.Namespace) -> None:
    for folder in options.folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder")
    findings = verify(options.folders)
    for path in findings.left:
        print(f"unfinished and unused, safe to delete: {path}")
    for line in findings.stale:
        print(f"warning: {line}")
    for problem in findings.damaged:
        print(f"damaged: {problem}")
    print(
        f"{findings.sound} sound, {len(findings.damaged)} damaged; {findings.files:,} files with "
        f"{findings.bytes / 1e6:,.1f} MB were compared with their hashes"
    )
    if findings.damaged:
        raise DataError(f"{len(findings.damaged)} damaged files; see the list above")
