"""`clipkd verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.core.errors import DataError, InputError
from clipkd.core.words import counted
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
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="where to look, with all below it (default: data and results, where they are)",
    )


def run(options: argparse.Namespace) -> None:
    folders = options.folders or [folder for folder in FOLDERS if folder.is_dir()]
    if not folders:
        raise InputError("there is neither data nor results here: name a folder")
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder")
    findings = verify(folders)
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
        raise DataError(f"{counted(len(findings.damaged), 'damaged file')}; see the list above")
