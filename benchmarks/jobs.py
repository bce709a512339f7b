"""What a training costs a workflow beyond its epochs: `python -m benchmarks.jobs [--jobs 8]`.

Students of seconds, one after another on one core: the wall time of the workflow, without its planning, over the
number of jobs, less the seconds of the epochs. What is left is Snakemake's work, the start of a process, torch's
import, reading and checking the data, evaluation, and files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import cpuinfo
from benchmarks.grids import ROOT, ended, project, snakemake
from clipkd.core.files import write_json

RESULT = ROOT / "benchmarks/results/jobs.json"
ROUNDS = 3


def timed(folder: Path, *arguments: str) -> float:
    """Return the wall seconds of one call of Snakemake."""
    start = time.perf_counter()
    ended(snakemake(folder, "--quiet", "all", *arguments), folder)
    return time.perf_counter() - start


def overhead(jobs: int) -> dict[str, Any]:
    """Return wall seconds a job, and those of them that are an epoch's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = ("--cores", "1", "--configfile", str(project(folder, jobs, ("supervised",))), "--until")
        timed(folder, *given, "download", "resolve")
        planning = timed(folder, *given, "download", "resolve")  # nothing is left to do
        wall = timed(folder, *given, "train") - planning
        costs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("results/runs/**/cost.json")]
        assert len(costs) == jobs
        epochs = sum(sum(cost["seconds_per_epoch"]) for cost in costs)
        return {"wall_s": round(wall / jobs, 3), "epochs_s": round(epochs / jobs, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs", description=__doc__)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    rounds = [overhead(options.jobs) for _ in range(ROUNDS)]
    beyond = [one["wall_s"] - one["epochs_s"] for one in rounds]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m benchmarks.jobs", *sys.argv[1:]]),
        "processor": cpuinfo.name(),
        "jobs": options.jobs,
        "rounds": rounds,
        "overhead_s": round(statistics.median(beyond), 2),
        "lowest_s": round(min(beyond), 2),
        "highest_s": round(max(beyond), 2),
    }
    write_json(options.output, result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
