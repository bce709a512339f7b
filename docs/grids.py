"""Write the cost of large grids into docs/performance.md: `python docs/grids.py [--check]`."""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

from generated import ROOT, main

sys.path.insert(0, str(ROOT))

from benchmarks import jobs, tables
from benchmarks.grids import RESULT, table

STARTS = 2
"""Of Snakemake in a SLURM job."""
LARGER = 100_000


def shown() -> str:
    """Return what the tables alone, and with figures and report, of many runs cost."""
    result: dict[str, Any] = json.loads(tables.RESULT.read_text(encoding="utf-8"))
    lines = [
        f"**Tables alone, and with figures and report,** of runs of {result['epochs']} epochs with made-up numbers, "
        f"CPU seconds; {result['processor']}, {result['date']}, `{result['command']}`:",
        "",
        "| runs | `clipkd tables` | `clipkd report --tables` |",
        "|---:|---:|---:|",
    ]
    lines += [f"| {row['runs']:,} | {row['tables']:.1f} | {row['report']:.1f} |" for row in result["rows"]]
    return "\n".join(lines)


def block() -> str:
    """Return the block: the measurements, and the estimate for larger grids."""
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    job: dict[str, Any] = json.loads(jobs.RESULT.read_text(encoding="utf-8"))
    grids = {int(cells): row for cells, row in result["grids"].items()}
    most = max(grids)
    least, plan, sent = grids[min(grids)]["planned"], grids[most]["planned"], grids[most]["submitted"]
    per_cell = (plan["cpu_s"] - least["cpu_s"]) / most
    memory = (plan["peak_mb"] - least["peak_mb"]) / most
    main_cpu = sent["cpu_s"] / most
    job_cpu = STARTS * least["cpu_s"]
    epochs = statistics.median(one["epochs_s"] for one in job["rounds"])
    return "\n\n".join(
        [
            f"{result['processor']}, {result['date']}, `{result['command']}`:",
            table(result),
            "Submission uses scripts in place of SLURM's commands, which end each job immediately, at most 200 at a "
            "time. Wall times and jobs per second include these scripts; CPU seconds and memory are those of the main "
            "process.",
            f"**Estimate for larger clusters** (not measured). Planning is linear, with {1000 * per_cell:.1f} CPU-ms "
            f"and {1000 * memory:.0f} kB per cell: {LARGER:,} cells take {per_cell * LARGER / 60:.0f} minutes and "
            f"{memory * LARGER / 1000:.1f} GB; use several grids instead. The main process spends "
            f"{1000 * main_cpu:.0f} CPU-ms on each job from submission to end, so it can follow {1 / main_cpu:.0f} "
            f"jobs per second: with trainings of one hour, {3600 / main_cpu:,.0f} at a time, more than a site lets one "
            "user run. The controller is queried once every 20 to 180 s, regardless of the number of jobs. Snakemake "
            f"starts {STARTS} times in each job, each as dear as the dry run of one cell: {job_cpu:.1f} CPU-s per job, "
            f"{job_cpu * most / 3600:.0f} CPU-hours for {most:,} cells.",
            shown(),
            f"**Overhead of a job beyond its epochs**, on one machine: {job['overhead_s']} s wall time "
            f"({job['lowest_s']} to {job['highest_s']}; process start, import of torch, data checks, evaluation, "
            f"files, and Snakemake's own work), over {job['jobs']} jobs of one core each, run one after another; the "
            f"12 epochs of a job took {epochs:.1f} s. {job['processor']}, {job['date']}, `{job['command']}`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/performance.md", "grids", block(), str(__doc__)))
