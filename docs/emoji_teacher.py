"""Write what a teacher gave on emoji into docs/method.md: `python docs/emoji_teacher.py [--check]`.

docs/teacher-emoji.csv and docs/teacher-emoji-accuracy.csv are results/tables/teacher-matters.csv and
accuracy-modern-crop-selected-top1.csv of config/emoji-teacher.yaml.
"""

from __future__ import annotations

import csv
import sys

from generated import ROOT, main

ALONE = "supervised"
TITLES = {"none": "none", "lite0": "ImageNet weights", "untrained": "random weights"}


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a table beside this script."""
    return list(csv.DictReader((ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()))


def block() -> str:
    """Return the table: a row per teacher and train type, its accuracy and its difference to training alone."""
    found = {(row["teacher"], row["method"]): row for row in rows("teacher-emoji.csv") if row["against"] == ALONE}
    lines = [
        "| teacher | train type | top-1, % | difference to `supervised`, points (95 % interval) | p, Holm |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows("teacher-emoji-accuracy.csv"):
        against = found.get((row["teacher"], row["train_type"]))
        mean = f"{float(row['mean_percent']):.1f} ± {float(row['deviation_percent']):.1f}"
        title = TITLES[row["teacher"].partition("=")[0]]
        p = f"{float(against['p_holm']):.3f}" if against else ""
        lines.append(f"| {title} | `{row['train_type']}` | {mean} | {difference(against)} | {p} |")
    return "\n".join(lines)


def difference(row: dict[str, str] | None) -> str:
    """Return a difference with its interval; nothing where there is none."""
    if row is None:
        return ""
    mean, low, high = (float(row[f"{part}_points"]) for part in ("difference", "low", "high"))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/method.md", "teacher", block(), str(__doc__)))
