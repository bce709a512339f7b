"""Write what few labels gave on Fashion-MNIST into README.md: `python docs/few_labels.py [--check]`.

docs/labels-fashion.csv is results/tables/labels.csv of the grid of config/fashion.yaml (docs/few-labels.md).
"""

from __future__ import annotations

import csv
import sys

from generated import ROOT, main

TEACHER, METHOD = "lite0", "vanilla"


def percent(row: dict[str, str], name: str) -> str:
    """Return a mean with one digit, a half rounded up: 76.65, which a sum of floats turned into 76.64999, is 76.7."""
    return f"{float(row[f'{name}_percent']) + 1e-9:.1f}"


def block() -> str:
    """Return the table: a row per number of labels; without a teacher, with it, and the teacher's linear probe."""
    records = list(csv.DictReader((ROOT / "docs/labels-fashion.csv").read_text(encoding="utf-8").splitlines()))
    alone = {row["labels"]: row for row in records if row["train_type"] == "supervised"}
    taught = {
        row["labels"]: row
        for row in records
        if row["train_type"] == METHOD and row["teacher"].partition("=")[0] == TEACHER
    }
    lines = [
        "| labelled images | student alone | with the teacher | gain, points (95 % interval) | teacher alone |",
        "|---|---:|---:|---:|---:|",
    ]
    for labels in sorted(taught, key=lambda name: int(name) if name.isdigit() else 10**9):
        row = taught[labels]
        gain, low, high = (float(row[f"{name}_points"]) for name in ("difference", "low", "high"))
        lines.append(f"| {int(labels):,} |" if labels.isdigit() else f"| {labels} |")
        lines[-1] += (
            f" {percent(alone[labels], 'mean')} % | **{percent(row, 'mean')} %** "
            f"| {gain:+.1f} ({low:.1f} to {high:.1f}) | {percent(row, 'probe')} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(ROOT / "README.md", "few-labels", block(), str(__doc__)))
