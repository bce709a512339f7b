"""How accuracy moves with the number of stored views: `python -m benchmarks.views` (under an hour on one core).

The digits, a student trained with and without the demo's teacher on K stored views of each image, and on new views in
every epoch (a live teacher). What is complete is not trained again. Writes benchmarks/results/views.json and
docs/views.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipkd.core.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT, PICTURE = ROOT / "benchmarks/results/views.json", ROOT / "docs/views.svg"
NEW = "new"
"""In place of K: new views in every epoch."""
TYPES = ("supervised", "vanilla")


def arguments(train_type: str, views: int | str, options: argparse.Namespace) -> list[str]:
    """Return the command that trains one point of the figure, all seeds."""
    live = "live" if train_type == "vanilla" else "cached"
    shown = ["--teacher-source", live] if views == NEW else ["--teacher-source", "replayed"]
    shown += [] if views == NEW else ["--views-per-image", str(views)]
    names = ["--dataset-name", "digits", "--teacher-model", options.teacher, "--student", options.student]
    numbers = ["--epochs", str(options.epochs), "--batch-size", "64", "--learning-rate", "1e-3"]
    places = ["--data", str(options.folder / "data"), "--log-folder", str(options.folder / f"runs-{views}")]
    seeds = ["--seed", *map(str, range(options.seeds)), "--processes", "1", "--device", "cpu", "--threads", "1"]
    return ["train", "--train-type", train_type, "--recipe", options.recipe, *names, *numbers, *shown, *places, *seeds]


def accuracies(train_type: str, views: int | str, options: argparse.Namespace) -> list[float]:
    """Return the test accuracy, last epoch, of each seed."""
    found = sorted((options.folder / f"runs-{views}").glob(f"{options.recipe}/*/*/*/{train_type}*/seed*/metrics.json"))
    return [json.loads(path.read_text(encoding="utf-8"))["last"]["test"]["top1"] for path in found]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing and return all accuracies."""
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m benchmarks.views", *sys.argv[1:]]),
        **{name: getattr(options, name) for name in ("recipe", "teacher", "student", "epochs", "seeds")},
        "top1": {train_type: {} for train_type in TYPES},
    }
    for views in (*options.views, NEW):
        for train_type in TYPES:
            if not options.draw:
                subprocess.run([sys.executable, "-m", "clipkd", *arguments(train_type, views, options)], check=True)
            if found := accuracies(train_type, views, options):
                result["top1"][train_type][str(views)] = found
    return result


def columns(result: dict[str, Any]) -> list[str]:
    """Return the numbers of views that were tried, new ones last."""
    found = {views for by_views in result["top1"].values() for views in by_views}
    return sorted(found - {NEW}, key=int) + [NEW] * (NEW in found)


def summary(accuracies: list[float] | None) -> str:
    """Return mean and deviation in percent, and of how many seeds."""
    if not accuracies:
        return "\N{EN DASH}"
    spread = f" ± {100 * statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.mean(accuracies):.1f}{spread} ({len(accuracies)})"


def table(result: dict[str, Any]) -> str:
    """Return mean and deviation over seeds (n) as a Markdown table."""
    names = [f"K = {views}" if views != NEW else "new views in every epoch" for views in columns(result)]
    lines = [f"| train type | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for train_type, by_views in result["top1"].items():
        lines.append(f"| {train_type} | {' | '.join(summary(by_views.get(views)) for views in columns(result))} |")
    return "\n".join(lines)


def draw(result: dict[str, Any]) -> None:
    """Draw the figure: a line for each train type, a point for each seed."""
    from clipkd.core.files import written_aside
    from clipkd.report.figures.style import line_style, new_figure, styled

    names = columns(result)
    with styled():
        figure = new_figure(6.0, 3.4, f"Digits: {result['student']} on K stored views, recipe {result['recipe']}")
        axes = figure.subplots()
        for train_type, by_views in result["top1"].items():
            colour, _ = line_style(train_type, list(TYPES))
            places = [place for place, views in enumerate(names) if views in by_views]
            means = [100 * statistics.mean(by_views[names[place]]) for place in places]
            axes.plot(places, means, color=colour, lw=1.8, label=train_type)
            for place in places:
                each = by_views[names[place]]
                axes.plot([place] * len(each), [100 * one for one in each], "o", color=colour, ms=3.5, alpha=0.7)
        axes.set_xticks(range(len(names)), ["new in\nevery epoch" if views == NEW else views for views in names])
        axes.set_xlabel("K, stored views of each image")
        axes.set_ylabel("test top-1 (%), last epoch")
        axes.legend(loc="lower right")
        with written_aside(PICTURE) as aside:
            figure.savefig(aside, format="svg", metadata={"Date": None, "Creator": None})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/views", help="data and runs")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 10])
    parser.add_argument("--recipe", default="modern-randaugment")
    parser.add_argument("--teacher", default="digits-vit-s")
    parser.add_argument("--student", default="tiny-32")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="train nothing: record and draw the runs that are there")
    options = parser.parse_args()
    result = measure(options)
    write_json(RESULT, result)
    draw(result)
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
