"""Adoption: finished work whose main process died before it could note that it is finished.

Snakemake keeps a mark for each output of a job that it has not seen end, and makes such outputs again. An
artefact that is whole, by its own manifest, need not be: its marks are taken off, by Snakemake itself. Runs keep
theirs: their jobs find in a second that they are complete, and Snakemake keeps its record of what made them.
"""

from __future__ import annotations

import binascii
import os
from base64 import urlsafe_b64decode
from pathlib import Path

from clipkd.core.artifacts import MANIFEST
from clipkd.runs.verification import problems_of

MARKS = Path(".snakemake/incomplete")


def finished(folder: Path) -> list[Path]:
    """Return the outputs of whole artefacts that are marked as unfinished, relative to the workflow's folder."""
    by_artefact: dict[Path, list[Path]] = {}
    for output in marked(folder / MARKS):
        by_artefact.setdefault(output.parent, []).append(output)
    found = []
    for artefact, outputs in sorted(by_artefact.items()):
        is_there = artefact / MANIFEST in outputs and all((folder / path).exists() for path in outputs)
        if is_there and not problems_of(folder / artefact):
            found += sorted(outputs)
    return found


def marked(marks: Path) -> list[Path]:
    """Return the outputs that Snakemake has marks for: their names, base64, long ones in folders of pieces."""
    found = []
    for name, _, files in os.walk(marks):
        pieces = [piece.removeprefix("@") for piece in Path(name).relative_to(marks).parts]
        for file in files:
            try:
                found.append(Path(urlsafe_b64decode("".join([*pieces, file])).decode()))
            except (binascii.Error, UnicodeDecodeError):
                continue
    return sorted(found)
