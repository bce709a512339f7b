"""`clipkd verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.core.errors import DataError, InputError

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
            raise InputError(f"{folder} is no folder")
    from clipkd.runs.verification import verify

    findings = verify(options.folders)
    for path in findings.left:
        print(f"unfinished, never read, may be removed: {path}")
    for problem in findings.damaged:
        print(f"damaged: {problem}")
    print(f"{findings.sound} sound, {len(findings.damaged)} damaged")
    if findings.damaged:
        raise DataError(f"{len(findings.damaged)} files are not as they were written; they are listed above")
