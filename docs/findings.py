"""Write what the demo shows into docs/method.md, after `make demo`: `python docs/findings.py [--check]`."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from generated import ROOT, main

from clipkd.runs.correct import CORRECT, unpacked
from clipkd.tables.summary import paired_by_image, verdict

RUNS = ROOT / "results/runs"
STORES = ROOT / "data/embeddings/digits"
TEACHERS = ("digits-vit-s", "digits-vit-xs")
TYPES = ("embed-KD", "embed-KD-random", "embed-KD-permuted", "embed-KD-onehot")
FIVE = range(5)
CONTROLS = {"embed-KD": "embed-KD-permuted", "teacher-KD": "teacher-KD-within-class", "vanilla": "vanilla-within-class"}
TRAINED_OR_NOT = ("digits-vit-s-untrained", "digits-vit-s")
CLASSES, DIMENSIONS_OF_STUDENT = 10, 64


def manifests(teacher: str, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return the folder and manifest of each stored artefact of a kind; end with a message where there is none."""
    found = [(path.parent, json.loads(path.read_text("utf-8"))) for path in (STORES / teacher).glob("*/manifest.json")]
    found = [(folder, manifest) for folder, manifest in found if manifest["kind"] == kind]
    return found or sys.exit(f"{STORES.relative_to(ROOT)}/{teacher} holds no {kind}: run `make demo` first")


def reachable() -> str:
    """Return how well one linear map sends the teacher's prototypes, and random ones, to arbitrary targets."""
    folder = next(
        folder for folder, manifest in manifests("digits-vit-s", "prototypes") if manifest["identity"]["form"] == "mean"
    )
    own = np.load(folder / "prototypes.npy").astype(np.float64)
    random = np.random.default_rng(0)
    targets = random.standard_normal((CLASSES, DIMENSIONS_OF_STUDENT))
    lines = [
        "| prototypes, 10 x 96 | rank | error of the best linear map to random targets |",
        "|---|---:|---:|",
    ]
    for name, vectors in (("the teacher's", own), ("random", random.standard_normal(own.shape))):
        with_bias = np.hstack([vectors, np.ones((CLASSES, 1))])
        best = np.linalg.lstsq(with_bias, targets, rcond=None)[0]
        error = np.abs(with_bias @ best - targets).max()
        lines.append(
            f"| {name} | {np.linalg.matrix_rank(vectors)} | {'below 1e-9' if error < 1e-9 else f'{error:.0e}'} |"
        )
    return "\n".join(lines)


def contrastive() -> str:
    """Return the contrastive term at the end of training, for embed-KD and its controls."""
    lines = ["| train type | reference, temperature 1 | corrected, learnt temperature |", "|---|---:|---:|"]
    for train_type in TYPES:
        ends = []
        for recipe in ("reference", "corrected"):
            folder = RUNS / recipe / "digits/tiny-32/digits-vit-s" / train_type
            histories = [folder / f"seed{seed}/history.csv" for seed in (0, 1)]
            if not all(path.is_file() for path in histories):
                sys.exit(f"{folder.relative_to(ROOT)} is missing: run `make demo` first")
            rows = [list(csv.DictReader(path.read_text("utf-8").splitlines()))[-1] for path in histories]
            ends.append(statistics.mean(float(row["train_contrastive"]) for row in rows))
        lines.append(f"| {train_type} | {ends[0]:.3f} | {ends[1]:.3f} |")
    return "\n".join(lines)


def correct(folder: Path) -> dict[int, np.ndarray]:
    """Return which test images are correct in each seed's selected epoch."""
    found = {}
    for seed in FIVE:
        path = folder / f"seed{seed}" / CORRECT
        if not path.is_file():
            sys.exit(f"{path.relative_to(ROOT)} is missing: run the grids that docs/numbers.md names first")
        found[seed] = unpacked(path)["selected"]
    return found


def five_seeds() -> str:
    """Return embed-KD against no teacher and against permuted vectors, paired by seed."""
    runs = RUNS / "corrected/digits/tiny-32"
    own = correct(runs / "digits-vit-s/embed-KD")
    others = {"supervised": runs / "none/supervised", "embed-KD-permuted": runs / "digits-vit-s/embed-KD-permuted"}
    lines = ["| embed-KD against | difference, points | 95 % interval | n | |", "|---|---:|---:|---:|---|"]
    for name, folder in others.items():
        found = paired_by_image(own, correct(folder)).times(100)
        interval = "" if found.low is None else f"{found.low:+.2f} to {found.high:+.2f}"
        line = f"| {name} | {found.mean:+.2f} | {interval} | {found.n} | {verdict(found, found.p)} |"
        lines.append(re.sub(r"-(?=\d)", "\N{MINUS SIGN}", line))
    return "\n".join(lines)


def untrained() -> str:
    """Return each method against no teacher and its deciding control, for a teacher with random weights and trained."""
    runs = RUNS / "corrected/digits/tiny-32"
    without = correct(runs / "none/supervised")
    lines = [
        "| method | teacher | top-1 | − supervised | 95 % interval | − its control | 95 % interval |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for method, control in CONTROLS.items():
        for teacher in TRAINED_OR_NOT:
            own, other = correct(runs / teacher / method), correct(runs / teacher / control)
            mean = 100 * np.mean([images.mean() for images in own.values()])
            cells = [method, teacher, f"{mean:.2f}"]
            for found in (paired_by_image(own, without).times(100), paired_by_image(own, other).times(100)):
                cells += [f"{found.mean:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}"]
            lines.append(re.sub(r"-(?=\d)", "\N{MINUS SIGN}", f"| {' | '.join(cells)} |"))
    return "\n".join(lines)


def block() -> str:
    """Return the block of docs/method.md."""
    chance = math.log(CLASSES)
    least = math.log(math.e + (CLASSES - 1) * math.exp(-1 / (CLASSES - 1))) - 1
    return "\n\n".join(
        [
            "**Does the teacher's content matter?** Five seeds, test accuracy of recipe corrected:",
            five_seeds(),
            "The content is shown to matter only if both rows say better. If an interval contains 0, no difference is "
            "shown; this does not prove equality. With 355 test images and a small teacher, a real effect is still "
            "possible.",
            "**And of a teacher with random weights?** The same, for a teacher that was never trained "
            "(`config/untrained.yaml`): test accuracy, and its differences in points, five seeds, intervals not "
            "corrected. The control gives embed-KD the means of other classes, and the other methods the targets of "
            "another image of the class:",
            untrained(),
            "**With the projection on the teacher's side, any prototypes work.** One linear map sends the ten "
            "prototypes of digits-vit-s exactly to randomly drawn targets, and it does the same with random vectors:",
            reachable(),
            "Training shows the same. This is the contrastive term in the last epoch, mean of two seeds; guessing "
            f"gives {chance:.3f}, and without a temperature it cannot fall below {least:.3f}:",
            contrastive(),
            "Compare the rows: if random, permuted and one-hot vectors reach values as low as the teacher's "
            "prototypes, the term does not depend on whose vectors they are.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/method.md", "findings", block(), str(__doc__)))
