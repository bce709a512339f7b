"""Run the benchmarks and write one JSON file: `python -m benchmarks [--rounds 5] [--output FILE]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import data_path, distillation, teacher_cost
from benchmarks.material import TEACHERS, Material
from benchmarks.rounds import matrix_peak
from clipkd import device as devices
from clipkd.artifacts import write_json
from clipkd.runs import environment

BENCHMARKS = {
    "distillation": distillation.measure,
    "teacher_cost": teacher_cost.measure,
    "data_path": data_path.measure,
}


def main() -> int:
    """Run every benchmark; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="which (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--teacher", choices=list(TEACHERS), default="vit-b16", help="shape of the teacher")
    parser.add_argument("--student", default="base-32")
    parser.add_argument("--steps", type=int, default=10, help="steps per round where no teacher runs")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/<device>.json)")
    options = parser.parse_args()
    device = devices.choose(options.device)
    torch.set_num_threads(1)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "machine": environment(device),
        "batch_size": options.batch_size,
        "student": options.student,
        "teacher": options.teacher,
        "matrix_peak_gflops": round(matrix_peak(device), 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder), options.teacher)
        for name in options.names or BENCHMARKS:
            print(f"{name}:", file=sys.stderr)
            result[name] = BENCHMARKS[name](material, options, device)
    output = options.output or Path(__file__).parent / "results" / f"{device.type}.json"
    write_json(output, result)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
