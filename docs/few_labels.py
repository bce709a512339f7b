"""Write what few labels gave into README.md and docs/few-labels.md: `python docs/few_labels.py [--check]`.

docs/labels-fashion.csv and docs/labels-fashion-teacher.csv are results/tables/labels.csv of the grids of
config/fashion.yaml and config/fashion-teacher.yaml (docs/few-labels.md); docs/types-fashion.csv and
docs/types-fashion-accuracy.csv are teacher-matters.csv and accuracy-modern-flip-selected-top1.csv of the grid of
config/fashion-types.yaml; docs/losses-fashion.csv and docs/losses-fashion-accuracy.csv are those of
config/fashion-losses.yaml, docs/small-fashion.csv and docs/small-fashion-accuracy.csv those of
config/fashion-small.yaml, docs/small-losses-fashion.csv and docs/small-losses-fashion-accuracy.csv those of
config/fashion-small-losses.yaml.
"""

from __future__ import annotations

import csv
import sys

from generated import ROOT, main

TEACHER, METHOD = "lite0", "vanilla"
SHOWN = ("1000", "all")
"""Where the grid has more than one teacher."""
TEACHERS = {
    "none": "none",
    "lite0": "ImageNet weights",
    "untrained": "random weights",
    "first": "the students of ImageNet weights",
    "cnn": "a CNN trained here",
}


def percent(row: dict[str, str], name: str) -> str:
    """Return a mean with one digit, a half rounded up: 76.65, which a sum of floats turned into 76.64999, is 76.7."""
    return f"{float(row[f'{name}_percent']) + 1e-9:.1f}"


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a table beside this script."""
    return list(csv.DictReader((ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()))


def order(row: dict[str, str]) -> float:
    """Return a row's number of labels; `all` is the largest."""
    return float(row["labels"]) if row["labels"].isdigit() else float("inf")


def points(row: dict[str, str]) -> str:
    """Return a difference in points, with its interval; nothing of a row without one."""
    if not row:
        return ""
    found = (float(row[f"{part}_points"]) for part in ("difference", "low", "high"))
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*found).replace("-", "\N{MINUS SIGN}")


def p_value(row: dict[str, str]) -> str:
    """Return a corrected p; nothing of a row without one."""
    if not row:
        return ""
    return "< 0.001" if float(row["p_holm"]) < 0.001 else f"{float(row['p_holm']):.3f}"


def block() -> str:
    """Return the table: a row per number of labels; without a teacher, with it (bold: better), the teacher's probe."""
    records = rows("labels-fashion.csv")
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
    for row in sorted(taught.values(), key=order):
        labels = row["labels"]
        lines.append(f"| {int(labels):,} |" if labels.isdigit() else f"| {labels} |")
        mean = f"{percent(row, 'mean')} %"
        lines[-1] += (
            f" {percent(alone[labels], 'mean')} % | {f'**{mean}**' if row['verdict'] == 'better' else mean} "
            f"| {points(row)} | {percent(row, 'probe')} % |"
        )
    return "\n".join(lines)


def teachers_block() -> str:
    """Return the table: a row per number of labels (of SHOWN), teacher and train type."""
    lines = [
        "| labels | teacher | train type | student, % | to `supervised`, points (95 % interval) | p, Holm "
        "| the teacher's own, % |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    shown = [row for row in rows("labels-fashion-teacher.csv") if row["labels"] in SHOWN]
    for row in sorted(shown, key=order):
        labels, name = row["labels"], row["teacher"].partition("=")[0]
        cells = [f"{int(labels):,}" if labels.isdigit() else labels, TEACHERS[name], f"`{row['train_type']}`"]
        cells += [f"{percent(row, 'mean')} ± {float(row['deviation_percent']):.1f}"]
        if row["difference_points"]:
            cells += [points(row), p_value(row), percent(row, "probe")]
        lines.append("| " + " | ".join([*cells, "", "", ""][:7]) + " |")
    return "\n".join(lines)


def types_block(stem: str) -> str:
    """Return the table of a grid: a row per student and train type, beside training alone and its own control."""
    compared = {(row["student"], row["method"], row["against"]): row for row in rows(f"{stem}.csv")}
    lines = [
        "| student | train type | top-1, % | to `supervised`, points (95 % interval) | p, Holm "
        "| to its control, points (95 % interval) | p, Holm |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows(f"{stem}-accuracy.csv"):
        student, name = row["student"], row["train_type"]
        against = [compared.get((student, name, other), {}) for other in ("supervised", f"{name}-permuted")]
        cells = [f"`{student}`", f"`{name}`", f"{percent(row, 'mean')} ± {float(row['deviation_percent']):.1f}"]
        for found in against:
            cells += [points(found), p_value(found)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    codes = [
        main(ROOT / "README.md", "few-labels", block(), str(__doc__)),
        main(ROOT / "docs/few-labels.md", "few-labels", block(), str(__doc__)),
        main(ROOT / "docs/few-labels.md", "teachers", teachers_block(), str(__doc__)),
        main(ROOT / "docs/few-labels.md", "types", types_block("types-fashion"), str(__doc__)),
        main(ROOT / "docs/few-labels.md", "small", types_block("small-fashion"), str(__doc__)),
        main(ROOT / "docs/few-labels.md", "losses", types_block("losses-fashion"), str(__doc__)),
        main(ROOT / "docs/few-labels.md", "small-losses", types_block("small-losses-fashion"), str(__doc__)),
    ]
    sys.exit(max(codes))
