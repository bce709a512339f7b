"""Write the demo's results into docs/demo-results.md, after `make demo`: `python docs/demo_results.py [--check]`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from generated import ROOT, main

from clipkd.spec.cells import NO_TEACHER
from clipkd.spec.chains import expand
from clipkd.spec.settings import Config
from clipkd.tables.comparisons import p_value

RESULTS = ROOT / "results"
ACCURACY = ("accuracy-reference-last-top1", "accuracy-corrected-last-top1")
"""Tables that are shown whole. With few labels too few images are held out to choose an epoch. The released code's best
test epoch is left to results/tables/: it is optimistic."""
METHOD = "embed-KD"
"""The method whose differences are shown."""


def needed(path: Path) -> str:
    """Return a result file's text; end with a message if it is missing."""
    if not path.is_file():
        sys.exit(f"{path.relative_to(ROOT)} is missing: run `make demo` first")
    return path.read_text(encoding="utf-8").strip()


def demo() -> list[Any]:
    """Return the demo's cells; end with a message if results/ contains another grid."""
    cells, _ = expand(Config.model_validate_json(needed(RESULTS / "config.json")))
    if {cell.dataset for cell in cells} != {"digits"}:
        sys.exit("results/ contains another grid than the demo's: run `make demo` first")
    return cells


def versions(cells: list[Any]) -> str:
    """Return the versions that the first run recorded."""
    found = json.loads(needed(RESULTS / "runs" / cells[0].folder / "env.json"))
    return f"clipkd {found['clipkd']}, Python {found['python']}, torch {found['packages']['torch'].partition('+')[0]}"


def seeds_of(cells: list[Any]) -> dict[Any, set[int]]:
    """Return the seeds of each kind of run that is not for cost alone."""
    found: dict[Any, set[int]] = {}
    for cell in cells:
        if not cell.is_cost_run:
            kind = cell.recipe, cell.student, cell.teacher, cell.train_type, cell.labels
            found.setdefault(kind, set()).add(cell.seed)
    return found


def number(text: str) -> str:
    return f"{float(text):+.2f}".replace("-", "\N{MINUS SIGN}") if text else "\N{EN DASH}"


def differences() -> str:
    """Return the rows of the table teacher-matters that are about METHOD, without their sentences."""
    records = csv.DictReader(needed(RESULTS / "tables/teacher-matters.csv").splitlines())
    lines = [
        "| recipe | teacher | against | difference, points | 95 % interval, uncorrected | n | p, Holm | |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in records:
        if row["method"] == METHOD and row["labels"] == "all":
            interval = (
                f"{number(row['low_points'])} to {number(row['high_points'])}" if row["low_points"] else number("")
            )
            parts = [row["recipe"], row["teacher"], row["against"], number(row["difference_points"]), interval]
            p = p_value(float(row["p_holm"]) if row["p_holm"] else None)
            lines.append(f"| {' | '.join([*parts, row['n'], p, row['verdict']])} |")
    return "\n".join(lines)


def few_labels() -> str:
    """Return the rows of the table labels where few labels are seen."""
    records = csv.DictReader(needed(RESULTS / "tables/labels.csv").splitlines())
    lines = [
        "| student | taught by | train type | test top-1, % | to supervised, points | 95 % interval, uncorrected "
        "| p, Holm | |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for row in records:
        if row["labels"] == "all":
            continue
        is_alone = row["teacher"] == NO_TEACHER
        reached = f"{float(row['mean_percent']):.2f} ± {float(row['deviation_percent']):.2f} ({row['n']})"
        interval = f"{number(row['low_points'])} to {number(row['high_points'])}" if row["low_points"] else number("")
        p = p_value(float(row["p_holm"]) if row["p_holm"] else None)
        parts = [row["student"], "–" if is_alone else row["teacher"].partition("=")[0], row["train_type"], reached]
        parts += [number(row["difference_points"]), interval, p, row["verdict"]]
        lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def content() -> str:
    """Return in words whether what the teacher says of an image matters with few labels."""
    records = csv.DictReader(needed(RESULTS / "tables/teacher-matters.csv").splitlines())
    found = [row["sentence"] for row in records if row["labels"] != "all" and row["question"] == "content"]
    return f"Does what the teacher says of the image matter? {' '.join(found)}"


def costs() -> str:
    """Return the cost of a live teacher and of its stored embeddings, from the table of costs."""
    records = list(csv.DictReader(needed(RESULTS / "tables/cost.csv").splitlines()))
    axes = ("dataset", "student", "teacher", "train_type", "recipe")
    stored = {tuple(row[axis] for axis in axes): row for row in records if row["teacher_source"] == "cached"}
    lines = [
        "| train type | extraction (once) | store, MB | epoch, stored | epoch, live | break-even after |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for live in (row for row in records if row["teacher_source"] == "live"):
        cached = stored[tuple(live[axis] for axis in axes)]
        slow, fast = (float(row["seconds_per_epoch_mean"]) for row in (live, cached))
        once, passes = float(cached["extraction_seconds"]), int(cached["extraction_passes"])
        megabytes = int(cached["embeddings_disk_bytes"]) / 1e6
        per_epoch = round(float(live["teacher_passes_in_run"]) / int(live["epochs"]))
        lines.append(
            f"| {live['train_type']} | {once:.1f} s, {passes:,} passes | {megabytes:.2f} "
            f"| {fast:.2f} s, 0 passes | {slow:.2f} s, {per_epoch:,} passes | {once / (slow - fast):.1f} epochs |"
        )
    return "\n".join(lines)


def block() -> str:
    """Return the block of docs/demo-results.md."""
    cells = demo()
    seeds = " or ".join(map(str, sorted({len(found) for found in seeds_of(cells).values()})))
    return "\n\n".join(
        [
            f"{len(cells)} runs, {seeds} seeds, run by `make demo` with {versions(cells)}, on a CPU.",
            "**With labels for 100 of 1,442 images**, last epoch. `cnn` is the convolutional network below, trained "
            "with the same 100 labels; it then teaches a vision transformer on all images:",
            few_labels(),
            content(),
            *(needed(RESULTS / f"tables/{stem}.md") for stem in ACCURACY),
            f"**Does the teacher matter?** Test top-1 of {METHOD} against training without a teacher, its controls and "
            f"other methods, paired by seed:",
            differences(),
            "**What does the teacher cost?** Teacher digits-vit-s, recipe reference, with its embeddings stored once "
            "or with the teacher run in every step:",
            costs(),
        ]
    )


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/demo-results.md", "results", block(), str(__doc__)))
