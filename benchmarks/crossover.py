"""From how many images seen on crops are worth it, by the student's size: `python -m benchmarks.crossover`.

Recipe modern, supervised, at each strength of augmentation on the same seeds, over student sizes and epochs. What is
complete is not trained again, so that the command may be stopped and given again, with more seeds or epochs too. Writes
benchmarks/results/crossover.csv, a row for each run, and docs/crossover.svg: the difference of each strength to flips,
in points, against the images seen, a line per student.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from clipkd.core.files import write_text
from clipkd.plugins import students
from clipkd.tables.summary import summarise

ROOT = Path(__file__).resolve().parents[1]
RESULT, PICTURE = ROOT / "benchmarks/results/crossover.csv", ROOT / "docs/crossover.svg"
AGAINST = "flip"
AXES = ("dataset", "student", "parameters", "epochs", "images_seen", "strength", "seed")
FIELDS = (*AXES, "top1")


def train(student: str, epochs: int, strength: str, options: argparse.Namespace) -> None:
    """Train what is missing of one point, all seeds."""
    names = ["--dataset-name", options.dataset, "--student", student, "--recipe", f"modern-{strength}"]
    names += ["--dataset-source", options.source] if options.source else []
    numbers = ["--epochs", epochs, "--batch-size", 128, "--learning-rate", 1e-3, "--weight-decay", 0.05]
    numbers += ["--seed", *range(options.seeds)]
    places = ["--data", options.folder / "data", "--log-folder", options.folder / f"runs-{epochs}"]
    machine = ["--processes", 1, "--device", options.device, "--threads", options.threads]
    words = ["train", "--train-type", "supervised", *names, *numbers, *places, *machine]
    subprocess.run([sys.executable, "-m", "clipkd", *map(str, words)], check=True)


def rows(student: str, epochs: int, strength: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each finished run of one point."""
    place = options.folder / f"runs-{epochs}" / f"modern-{strength}" / options.dataset / student
    spec = students.get(student)
    found = []
    for path in sorted(place.glob("none/supervised/seed*/metrics.json")):
        metrics = json.loads(path.read_text(encoding="utf-8"))
        values = (
            options.dataset, student, spec.parameters(), epochs, epochs * metrics["train_images"], strength,
            metrics["cell"]["seed"], metrics["last"]["test"]["top1"],
        )  # fmt: skip
        found.append(dict(zip(FIELDS, values, strict=True)))
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of results; none where it is not there."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    kinds = {"parameters": int, "epochs": int, "images_seen": int, "seed": int, "top1": float}
    return [{name: kinds.get(name, str)(value) for name, value in row.items()} for row in found]


def merged(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all rows, of one run the new one, in a fixed order."""
    every = {tuple(row[name] for name in AXES): row for row in (*before, *now)}
    return [every[key] for key in sorted(every)]


def text(found: list[dict[str, Any]]) -> str:
    """Return rows as CSV."""
    made = io.StringIO()
    writer = csv.DictWriter(made, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return made.getvalue()


def differences(found: list[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[int, float, float]]]:
    """Return (strength, student) -> images seen, mean difference to flips in points, its standard error; by seed.

    The error is NaN with one seed. Students are in the order of their size.
    """
    top1 = {tuple(row[name] for name in ("student", "images_seen", "strength", "seed")): row["top1"] for row in found}
    sizes = {row["student"]: row["parameters"] for row in found}
    points: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    strengths = dict.fromkeys(row["strength"] for row in found if row["strength"] != AGAINST)
    for strength, student in itertools.product(strengths, sorted(sizes, key=lambda name: sizes[name])):
        for seen in sorted({row["images_seen"] for row in found if row["student"] == student}):
            seeds = {key[3] for key in top1 if key[:3] == (student, seen, strength)}
            pairs = [(top1[student, seen, strength, seed], top1.get((student, seen, AGAINST, seed))) for seed in seeds]
            values = [100 * (one - other) for one, other in pairs if other is not None]
            if values:
                over = summarise(values)
                error = over.deviation / math.sqrt(len(values))
                points.setdefault((strength, student), []).append((seen, over.mean, error))
    return points


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw the figure."""
    from matplotlib.lines import Line2D

    from clipkd.report.figures.style import GREY, PALETTE, legend, new_figure, save, styled

    points = differences(found)
    strengths, sizes = (list(dict.fromkeys(key[place] for key in points)) for place in (0, 1))
    ticks = sorted({row["images_seen"] for row in found})
    datasets = ", ".join(sorted({row["dataset"] for row in found}))
    with styled():
        title = f"Stronger augmentation against flips: {datasets}, supervised, recipe modern"
        figure = new_figure(max(6.0, 1.0 + 3.6 * len(strengths)), 4.2, title)
        (row,) = figure.subplots(1, max(1, len(strengths)), squeeze=False, sharey=True)
        for axes, strength in zip(row, strengths, strict=False):
            axes.axhline(0, color=GREY, lw=1, ls=":")
            for student in sizes:
                seen, means, errors = zip(*points.get((strength, student), [(math.nan,) * 3]), strict=True)
                colour = PALETTE[sizes.index(student) % len(PALETTE)]
                axes.errorbar(seen, means, errors, color=colour, marker="o", ms=4, lw=1.4, capsize=3)
            axes.set(xscale="log", xlabel="images seen", title=strength)
            axes.set_xticks(ticks, [f"{seen:,}" for seen in ticks])
            axes.minorticks_off()
        row[0].set_ylabel("difference to flips (points)")
        parameters = {one["student"]: one["parameters"] for one in found}
        handles = [
            Line2D([], [], color=PALETTE[place % len(PALETTE)], marker="o", ms=4, label=f"{name}: {parameters[name]:,}")
            for place, name in enumerate(sizes)
        ]
        legend(figure, handles, "students and their parameters; bars: standard error over seeds, paired")
        save(figure, path.parent, path.stem)
        path.with_suffix(".png").unlink()  # documents show the SVG


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossover", description=__doc__)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--source", help="where the dataset's data are")
    parser.add_argument("--students", nargs="+", default=["tiny-32", "small-32"])
    parser.add_argument("--epochs", nargs="+", type=int, default=[10, 30, 100])
    parser.add_argument("--strengths", nargs="+", default=["flip", "crop", "full"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("crossover"), help="data and runs, kept for the next call")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--draw", action="store_true", help="train nothing: draw what the CSV holds")
    return parser.parse_args()


def main() -> int:
    """Train what is missing, write the results after each point, and draw the figure."""
    options = parsed()
    found = read(options.output)
    # Short runs first: stopped early, the figure has all students.
    for epochs, student, strength in itertools.product(sorted(options.epochs), options.students, options.strengths):
        if not options.draw:
            train(student, epochs, strength, options)
            found = merged(found, rows(student, epochs, strength, options))
            write_text(options.output, text(found))
    draw(found, options.picture)
    for (strength, student), points in differences(found).items():
        print(strength, student, *(f"{seen:,}: {mean:+.1f} ± {error:.1f}" for seen, mean, error in points), sep="  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
