"""What tables, figures and report of many runs cost: `python -m benchmarks.tables [--runs 100 1000 10000]`.

The files of the runs hold made-up numbers, of 12 epochs each; the programs read and check them as they do any others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import cpuinfo
from benchmarks.grids import TYPES, ended
from clipkd.core.files import write_json
from tests.synthetic import small, write_study

RESULT = Path(__file__).parent / "results/tables.json"
EPOCHS = 12
COMMANDS = {"tables": ["tables"], "report": ["report", "--tables", "results/tables"]}
"""Tables alone, and what the workflow calls: tables, figures and the report."""


def study(folder: Path, runs: int) -> int:
    """Write the finished runs of a grid, and its resolved config; return how many there are."""
    config = small()
    seeds = list(range(max(2, runs // len(TYPES))))
    config["grid"] = [config["grid"][0] | {"train_types": list(TYPES), "recipes": ["corrected"], "seeds": seeds}]
    config["training"]["epochs"] = EPOCHS
    made = write_study(config, folder, lambda cell: 0.8 + 1e-6 * cell.seed)
    write_json(folder / "results/config.json", made.config.model_dump(mode="json", exclude_unset=True))
    return len(made.cells)


def cost(folder: Path, *words: str) -> float:
    """Return the CPU seconds of a clipkd command."""
    program = [sys.executable, "-m", "clipkd", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        return ended(subprocess.Popen(program, cwd=folder, env=environment, stdout=log, stderr=log), folder)["cpu_s"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    rows = []
    for runs in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            found = study(Path(folder), runs)
            rows.append({"runs": found} | {name: cost(Path(folder), *words) for name, words in COMMANDS.items()})
        print(rows[-1], file=sys.stderr)
    write_json(
        options.output,
        {
            "command": " ".join(["python -m benchmarks.tables", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "epochs": EPOCHS,
            "processor": cpuinfo.name(),
            "rows": rows,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
