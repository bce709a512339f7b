"""Write what recipe modern gave beside corrected into docs/method.md: `python docs/recipes.py [--check]`.

docs/recipes-fashion.csv and docs/recipes-emoji.csv are results/tables/recipes.csv of config/fashion-recipes.yaml and
config/emoji.yaml.
"""

from __future__ import annotations

import csv
import sys

from generated import ROOT, main

GRIDS = {
    "fashion": "Fashion-MNIST, 10,000 images, 40 epochs (`auto`: flips)",
    "emoji": "emoji, 43 kinds, 1,725 images, 150 epochs (`auto`: crops)",
}


def block() -> str:
    """Return the table: a row per dataset and student."""
    lines = [
        "| images | student | corrected | modern | difference, points (95 % interval) | p, Holm |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, title in GRIDS.items():
        text = (ROOT / f"docs/recipes-{name}.csv").read_text(encoding="utf-8")
        rows = {(row["student"], row["recipe"]): row for row in csv.DictReader(text.splitlines())}
        for student in sorted({student for student, _ in rows}, reverse=True):
            row = rows[student, "modern"]
            means = [f"{float(rows[student, recipe]['mean_percent']):.1f}" for recipe in ("corrected", "modern")]
            found, low, high = (float(row[f"{part}_points"]) for part in ("difference", "low", "high"))
            difference = f"{found:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")
            lines.append(f"| {title} | `{student}` | {' | '.join(means)} | {difference} | {float(row['p_holm']):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/method.md", "recipes", block(), str(__doc__)))
