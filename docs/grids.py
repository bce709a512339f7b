"""Write what large grids cost into docs/performance.md: `python docs/grids.py [--check]`."""

from __future__ import annotations

import json
import sys
from typing import Any

from generated import ROOT, main

sys.path.insert(0, str(ROOT))

from benchmarks import jobs
from benchmarks.grids import RESULT, table

JOB_CPU_SECONDS = 4.4
"""Of Snakemake itself in a SLURM job, which starts it twice (measured on the test cluster)."""
LARGER = 100_000


def block() -> str:
    """Return the block: measured, and the estimate for what is larger."""
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    job: dict[str, Any] = json.loads(jobs.RESULT.read_text(encoding="utf-8"))
    grids = {int(cells): row for cells, row in result["grids"].items()}
    most = max(grids)
    least, plan, sent = grids[min(grids)]["planned"], grids[most]["planned"], grids[most]["submitted"]
    per_cell = (plan["cpu_s"] - least["cpu_s"]) / most
    memory = (plan["peak_mb"] - least["peak_mb"]) / most
    main_cpu = sent["cpu_s"] / most
    return "\n\n".join(
        [
            f"{result['processor']}, {result['date']}, `{result['command']}`:",
            table(result),
            "Submitted: SLURM's commands are replaced by scripts that end each job at once, at most 200 at a time; "
            "wall times and jobs a second include those scripts, CPU seconds and memory are the main process's.",
            f"**Estimate for larger clusters** (not measured). Planning is linear, {1000 * per_cell:.1f} CPU-ms and "
            f"{1000 * memory:.0f} kB a cell: {LARGER:,} cells take {per_cell * LARGER / 60:.0f} minutes and "
            f"{memory * LARGER / 1000:.1f} GB; several grids are better. The main process spends {1000 * main_cpu:.0f} "
            f"CPU-ms on a job from its submission to its end, so it can follow {1 / main_cpu:.0f} jobs a second: with "
            f"trainings of an hour, {3600 / main_cpu:,.0f} at a time, more than a site lets one user run. The "
            f"controller is asked once in 20 to 180 s, however many jobs there are. A job costs {JOB_CPU_SECONDS} "
            f"CPU-s for Snakemake itself: {JOB_CPU_SECONDS * most / 3600:.0f} CPU-hours for {most:,} cells.",
            f"**A job beyond its epochs**, on one machine: {job['overhead_s']} s wall ({job['lowest_s']} to "
            f"{job['highest_s']}; start of the process, torch's import, checks of the data, evaluation, files, and "
            f"Snakemake's own work), over {job['jobs']} jobs of one core each, one after another; {job['processor']}, "
            f"{job['date']}, `{job['command']}`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(ROOT / "docs/performance.md", "grids", block(), str(__doc__)))
