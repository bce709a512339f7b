"""What a large grid costs the main process: `python -m benchmarks.grids [--cells 1 100 1000 10000]`.

Planned: a dry run of the grid, everything still to do. Submitted: every cell through profiles/slurm, SLURM's commands
replaced by scripts that end each job at once with empty outputs, so that only the main process's own work is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import cpuinfo
from clipkd.core.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/grids.json"
GRID = """\
grid:
  - name: many seeds
    datasets: [digits]
    teachers: [digits-vit-s]
    students: [tiny-32]
    train_types: [{train_types}]
    recipes: [corrected]
    seeds: [{seeds}]
training: {{epochs: 12, device: cpu, stack: 1}}
"""
TYPES = ("supervised", "vanilla", "teacher-KD", "embed-KD")
SBATCH = """\
#!/bin/sh
case "$*" in *--test-only*) exit 0;; esac
job=$(date +%s%N)
while [ $# -gt 0 ]; do [ "$1" = --comment ] && comment=$2; shift; done
cell=$(echo "${comment#rule_train_wildcards_}" | sed 's,_,/,g; s,/\\([0-9]*\\)/\\([0-9a-f]*\\)$,/seed\\1 \\2,')
settings=${cell#* } cell=${cell% *}
mkdir -p "results/runs/$cell" "results/benchmarks/runs/${cell%/*}"
touch "results/benchmarks/runs/$cell-$settings.tsv" "results/runs/$cell/.done-$settings"
echo "$job|COMPLETED" >> jobs
echo "$job"
"""
SCONTROL = """\
#!/bin/sh
[ "$2" = config ] && printf 'AccountingStorageType = accounting_storage/none\\nMinJobAge = 3600 sec\\n'
[ "$2" = partition ] && printf 'PartitionName=%s MaxTime=UNLIMITED State=UP PreemptMode=OFF\\n' cpu gpu
true
"""
COMMANDS = {
    "sbatch": SBATCH,
    "scontrol": SCONTROL,
    "squeue": "#!/bin/sh\ntouch jobs; cat jobs\n",
    "sacct": "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2; exit 1\n",
    "sinfo": "#!/bin/sh\nprintf 'cpu|(null)|1000000|64\\ngpu|gpu:8|1000000|64\\n'\n",
    "scancel": "#!/bin/sh\n",
    "srun": "#!/bin/sh\n",
}
FAST = ("--slurm-init-seconds-before-status-checks", "1", "--max-status-checks-per-second", "10", "--latency-wait", "1")


def project(folder: Path, cells: int, train_types: tuple[str, ...]) -> Path:
    """Make a workflow's folder for a grid of so many cells; return its config."""
    for name in ("workflow", "config", "profiles", "clipkd"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "Snakefile", folder)
    seeds = ", ".join(map(str, range(-(-cells // len(train_types)))))
    config = folder / "grid.yaml"
    config.write_text(GRID.format(train_types=", ".join(train_types[:cells]), seeds=seeds))
    return config


def snakemake(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start Snakemake in a folder, the scripts of that folder first on its PATH."""
    path = f"{folder / 'commands'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder, env=os.environ | {"PATH": path}, stdin=subprocess.DEVNULL,
        stdout=open(folder / "log", "w"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: subprocess.Popen, folder: Path) -> dict[str, float]:
    """Wait for a process; return its CPU seconds and peak memory."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit((folder / "log").read_text()[-3000:])
    return {"cpu_s": round(usage.ru_utime + usage.ru_stime, 2), "peak_mb": round(usage.ru_maxrss / 1000)}


def planned(cells: int) -> dict[str, float]:
    """Return what a dry run of a grid costs."""
    with tempfile.TemporaryDirectory() as name:
        config = project(Path(name), cells, TYPES)
        start = time.perf_counter()
        cost = ended(snakemake(Path(name), "--dry-run", "--configfile", str(config)), Path(name))
        return {"seconds": round(time.perf_counter() - start, 2)} | cost


def submitted(cells: int) -> dict[str, Any]:
    """Return what submitting every cell costs, and the memory when a tenth, half and all of them were submitted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = project(folder, cells, TYPES[:1])
        (folder / "commands").mkdir()
        for command, text in COMMANDS.items():
            (folder / "commands" / command).write_text(text)
            (folder / "commands" / command).chmod(0o755)
        dataset = folder / "data/datasets/digits/manifest.json"
        dataset.parent.mkdir(parents=True)
        dataset.write_text(json.dumps({"facts": {"train": 1442, "test": 355}}))
        start = time.perf_counter()
        flags = ("--workflow-profile", "profiles/slurm", *FAST, "--configfile", str(config), "--until", "train")
        process = snakemake(folder, *flags)
        memory: dict[str, int] = {}
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            jobs = folder / "jobs"
            done = len(jobs.read_bytes().splitlines()) if jobs.exists() else 0
            for share in (10, 50, 100):
                if done >= share * cells / 100 and str(share) not in memory and (now := resident_mb(process.pid)):
                    memory[str(share)] = now
            time.sleep(0.2)
        cost = ended(process, folder)
        seconds = time.perf_counter() - start
        return {"seconds": round(seconds, 1), "per_second": round(cells / seconds, 1)} | cost | {"memory_mb": memory}


def resident_mb(pid: int) -> int:
    """Return a process's resident memory; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1000 for line in lines if line.startswith("VmRSS")), 0)


def table(result: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| cells | dry run, s | CPU-s | peak MB | submitted, jobs a second | CPU-s | MB at 10 % | 50 % | 100 % |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cells, row in result["grids"].items():
        plan, sent = row["planned"], row.get("submitted")
        memory = [str(sent["memory_mb"].get(share, "")) for share in ("10", "50", "100")] if sent else [""] * 3
        end = [f"{sent['per_second']:g}", f"{sent['cpu_s']:.0f}"] if sent else ["", ""]
        cells_ = [f"{int(cells):,}", f"{plan['seconds']:.1f}", f"{plan['cpu_s']:.1f}", f"{plan['peak_mb']:.0f}"]
        lines.append("| " + " | ".join([*cells_, *end, *memory]) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grids", description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[1, 100, 1000, 10000])
    parser.add_argument("--no-submission", action="store_true", help="dry runs only")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m benchmarks.grids", *sys.argv[1:]]),
        "processor": cpuinfo.name(),
        "grids": {},
    }
    for cells in options.cells:
        row: dict[str, Any] = {"planned": planned(cells)}
        if not options.no_submission:
            row["submitted"] = submitted(cells)
        result["grids"][str(cells)] = row
        print(f"{cells} cells: {row}", file=sys.stderr)
    write_json(options.output, result)
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
