"""`labels.csv`: the file, in a split's folder, that says which image is of which class in place of folders."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from clipkd.core.accents import composed
from clipkd.core.errors import InputError, all_at_once
from clipkd.core.files import printable

LABELS = "labels.csv"
HEADER = ["file", "label"]
SEPARATORS = {";": "semicolons", "\t": "tabs"}


def has_labels_file(folder: Path) -> bool:
    """Return whether a file says which image is of which class.

    One with another header is wrong, and not passed over: beside class folders, all images would count as labelled.

    Raises:
        InputError: a file has that name in other letters, which is not passed over either.
    """
    if (folder / LABELS).is_file():
        return True
    for name in os.listdir(folder) if folder.is_dir() else ():
        if name.casefold() == LABELS:
            raise InputError(f"{printable(folder / name)}: rename it to {LABELS}, which is what is read")
    return False


def read_labels(path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Return file -> class of a file of labels, and file -> its line. Files are relative to the file's folder.

    Raises:
        InputError: it can't be read, has no header `file,label`, names no file or class in a line, a file twice, or
            nothing at all. All wrong lines are named at once, 20 at most.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} can't be read as CSV in UTF-8 ({error})") from None
    refuse_other_header(path, rows)
    labels: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        name, label = (composed(cell.strip()) for cell in (*row, "", "")[:2])
        name = name.removeprefix("./")
        if len(row) != 2 or not name or not label:
            what = f"{len(row)} columns instead of 2" if len(row) != 2 else "no class" if name else "no file"
            problems.append(f"line {number}: {what}")
        elif name in labels:
            problems.append(f"line {number}: '{name}' is in line {lines[name]} already")
        else:
            labels[name], lines[name] = label, number
    if problems:
        raise InputError(all_at_once(f"{path} is wrong", problems))
    if not labels:
        raise InputError(f"{path} labels no image: name at least two classes")
    return labels, lines


def refuse_other_header(path: Path, rows: list[list[str]]) -> None:
    """Raise InputError where the first line of a file of labels is not `file,label`; says what to do."""
    header = [name.strip() for name in rows[0]] if rows else []
    if [name.lower() for name in header] == HEADER:
        return
    if not any(cell.strip() for row in rows for cell in row):
        raise InputError(f"{path}: the file is empty: it says which image has which label, below the line file,label")
    written = ",".join(rows[0])
    found = f"{path}, line 1: the header is '{written}', not 'file,label'"
    if len(header) == 1 and (separator := next((one for one in ";\t" if one in written), "")):
        raise InputError(f"{found}: separate the columns with commas, not with {SEPARATORS[separator]}")
    if len(header) == 2 and "." in header[0]:  # a file's name
        raise InputError(f"{found}: add the line file,label above it")
    raise InputError(
        f"{found}: this file says which image has which label; if yours is of another kind, move it out of this folder"
    )


def classes_in(folder: Path, labels: dict[str, str]) -> list[str]:
    """Return the classes that a split's file of labels names; InputError where there is only one."""
    classes = sorted(set(labels.values()))
    if len(classes) < 2:
        raise InputError(f"{folder / LABELS} names one class only, '{classes[0]}'; a dataset has at least two")
    return classes


def first_lines(labels: dict[str, str], lines: dict[str, int]) -> dict[str, int]:
    """Return class -> the first line that names it, of what a file of labels says."""
    return {label: lines[name] for name, label in reversed(labels.items())}
