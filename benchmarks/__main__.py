"""Run the benchmarks and write one JSON file: `python -m benchmarks [--rounds 5] [--output FILE]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks import data_path, distillation, grid, machine, memory, precision, stack, teacher_cost
from benchmarks.material import TEACHERS, Material
from benchmarks.rounds import matrix_peak
from clipkd.core import device as devices
from clipkd.core.files import read_json, write_json

BENCHMARKS = {
    "products": machine.measure,
    "distillation": distillation.measure,
    "teacher_cost": teacher_cost.measure,
    "grid": grid.measure,
    "memory": memory.measure,
    "stack": stack.measure,
    "precision": precision.measure,
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
    parser.add_argument("--precision-seeds", type=int, default=precision.SEEDS, help="seeds of `precision`")
    parser.add_argument("--precision-epochs", type=int, default=precision.EPOCHS, help="epochs of `precision`")
    parser.add_argument("--stack-on-cpu", action="store_true", help="run `stack` without a GPU, to try it")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/<processor or GPU>.json)")
    options = parser.parse_args()
    device = devices.choose(options.device)
    torch.set_num_threads(1)
    measured = machine.origin(device, "benchmarks")
    # One file a machine: what others measured stays beside it.
    output = options.output or Path(__file__).parent / "results" / f"{machine.record_name(measured['machine'])}.json"
    # What is not asked for now stays as it was measured; each part says when, how and where that was.
    result = read_json(output) if output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder), options.teacher)
        for name in options.names or BENCHMARKS:
            print(f"{name}:", file=sys.stderr)
            setting = {"batch_size": options.batch_size, "student": options.student, "teacher": options.teacher}
            peak = {"matrix_peak_gflops": round(matrix_peak(device), 1)}
            found = BENCHMARKS[name](material, options, device)
            if "not_measured" in found:
                print(f"{name}: not measured: {found['not_measured']}", file=sys.stderr)
            result[name] = measured | setting | peak | found
            write_json(output, result)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
