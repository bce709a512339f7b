"""A copy of the workflow for one scenario: its trainings leave a trace of every step, and faults can be put in.

The faults are real (signals, memory, SLURM's own commands); only the moment is arranged. The command `clipkd` that
jobs find first on their PATH saves more often than the installed one, notes each step that it takes, and can be
told to need more memory, to stay on for a while after its training, or to forget what was saved (the negative control).
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.workflow.test_workflow import copy_workflow

BIN = Path(sys.executable).parent
EPOCHS = 12
GRID = f"""\
grid:
  - name: disturbed
    datasets: [digits]
    teachers: [digits-vit-xs]
    students: [tiny-32]
    train_types: [supervised]
    recipes: [corrected]
    seeds: [0, 1, 2, 3]
  - name: others
    datasets: [digits]
    teachers: [digits-vit-xs]
    students: [tiny-32]
    train_types: [embed-KD]
    recipes: [corrected]
    seeds: [0, 1]
training: {{epochs: {EPOCHS}, batch_size: 128, learning_rate: 1e-3, device: cpu, stack: 1}}
"""
SECONDS_BETWEEN_SAVES = 0.5
CLIPKD = f"""\
#!{sys.executable}
import os, sys, time
sys.path[:] = [path for path in sys.path if path != os.path.dirname(os.path.abspath(__file__))]
arguments = sys.argv[1:]
if arguments[:1] == ["train"]:
    from pathlib import Path
    from clipkd.runs import checkpointing, folder, loop, training
    checkpointing.SECONDS_BETWEEN_SAVES, checkpointing.SHARE_FOR_SAVES = {SECONDS_BETWEEN_SAVES}, float("inf")
    cell = os.path.dirname(arguments[arguments.index("--stamp") + 1])
    if os.environ.get("TEST_FORGETS"):
        training.resume = lambda run: False
        folder.RunFolder.finished = lambda folder, identity: False
    trace = open(Path("trace") / f"{{time.time():.3f}}-{{os.getpid()}}", "w", buffering=1)
    step, ballast = loop.train_step, []
    def noted(group, batches):
        step(group, batches)
        (run,) = group.runs
        done = (run.epoch.number - 1) * run.steps_per_epoch + run.epoch.step
        trace.write(f"{{time.time():.3f}} {{cell}} {{done}}\\n")
        time.sleep(float(os.environ.get("TEST_SECONDS_A_STEP", 0)))
        if done == 30 and cell.endswith(os.environ.get("TEST_HUNGRY", "none")):
            ballast.append(bytearray(os.urandom(1_000_000) * 900))
            time.sleep(8)  # until SLURM looks at the memory again
    loop.train_step = noted
from clipkd.cli import main
code = main(arguments)
if arguments[:1] == ["train"] and cell.endswith(os.environ.get("TEST_LINGERS", "none")):
    try:
        os.mkdir("lingers")
    except FileExistsError:
        sys.exit(code)
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(300)  # its training is over, its job is not
sys.exit(code)
"""


@dataclass
class Step:
    """A step that a training took."""

    at: float
    process: str
    number: int


class Project:
    """A workflow's folder."""

    def __init__(self, folder: Path, cluster: Cluster | None) -> None:
        self.folder, self.cluster = copy_workflow(folder), cluster
        (folder / "config/test.yaml").write_text(GRID)
        (folder / "bin").mkdir()
        (folder / "trace").mkdir()
        self.put_command("clipkd", CLIPKD)
        self.environment: dict[str, str] = {}
        self.mains: list[Main] = []

    def put_command(self, name: str, text: str) -> None:
        """Put a command first on the PATH of the main process and of all jobs."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def copy_data(self, other: Project) -> None:
        """Take over the datasets, teachers and embeddings that another project made."""
        shutil.copytree(other.folder / "data", self.folder / "data")

    def snakemake(self, *arguments: str, slurm: bool = True) -> Main:
        """Start the workflow."""
        return self.start(*self.command(*arguments, slurm=slurm))

    def command(self, *arguments: str, slurm: bool = True) -> list[str]:
        """Return the command that starts the workflow."""
        options = ["--workflow-profile", "profiles/slurm", *FAST] if slurm else ["--cores", "2"]
        return [str(BIN / "snakemake"), *options, "--configfile", "config/test.yaml", *arguments]

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text in a file of the workflow."""
        text = (self.folder / path).read_text()
        assert text.count(old) == 1, f"{path}: {old}"
        (self.folder / path).write_text(text.replace(old, new))

    def start(self, *command: str) -> Main:
        """Start a command in the project's folder, in the cluster."""
        number = len(list(self.folder.glob("main-*.log"))) + 1
        log = self.folder / f"main-{number}.log"
        path = f"{self.folder / 'bin'}:{BIN}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | self.environment
        line = [*command]
        if self.cluster is not None:
            holder = (self.cluster.root / "run/holder.pid").read_text().strip()
            line = ["nsenter", f"--target={holder}", "--mount", f"--wdns={self.folder}", *command]
        with open(log, "w") as stream:
            process = subprocess.Popen(
                line, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        self.mains.append(Main(process, log))
        return self.mains[-1]

    def end(self) -> None:
        """Kill the main processes, cancel their jobs, wait until the cluster is empty."""
        for main in self.mains:
            main.kill()
        if self.cluster is not None:
            cluster = self.cluster
            cluster.run("scancel", "--user=root", check=False)
            until(lambda: cluster.run("squeue", "--noheader").stdout == "", "the cluster is empty")

    # --- what happened

    def steps(self) -> dict[str, list[Step]]:
        """Return every step that every training took, by cell, in the order of time."""
        found: dict[str, list[Step]] = defaultdict(list)
        for path in sorted((self.folder / "trace").iterdir()):
            for line in path.read_text().splitlines():
                if line.count(" ") == 2:
                    at, cell, number = line.split()
                    found[cell.removeprefix("results/runs/")].append(Step(float(at), path.name, int(number)))
        return {cell: sorted(steps, key=lambda step: step.at) for cell, steps in found.items()}

    def reached(self, cell: str, number: int) -> bool:
        return any(step.number >= number for step in self.steps().get(cell, []))

    def trained_by(self, cell: str) -> list[str]:
        """Return the processes that trained a cell, in the order of their first steps."""
        return list(dict.fromkeys(step.process for step in self.steps().get(cell, [])))

    def together(self, cell: str) -> bool:
        """Return whether two processes ever trained a cell at the same time."""
        steps = self.steps()[cell]
        changes = sum(one.process != next.process for one, next in pairwise(steps))
        return changes != len({step.process for step in steps}) - 1

    def lost(self, cell: str) -> int:
        """Return how many steps were taken more than once."""
        steps = self.steps()[cell]
        return len(steps) - len({step.number for step in steps})

    def pids(self, cell: str) -> list[int]:
        """Return the living processes that train a cell."""
        pids = [int(process.rpartition("-")[2]) for process in self.trained_by(cell)]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    def job(self, cell: str) -> str:
        """Return the number of the SLURM job that waits or runs for a cell."""
        assert self.cluster is not None
        said = self.cluster.run("squeue", "--noheader", "--format=%i|%k").stdout
        return next(line.partition("|")[0] for line in said.splitlines() if f"|{comment_of(cell)}" in line)

    def logs(self, cell: str) -> list[str]:
        """Return the logs of all attempts at a cell."""
        path = self.folder / "logs/runs" / cell
        found = sorted(
            path.parent.glob(f"{path.name}-*.attempt*.log"), key=lambda log: int(re.findall(r"\d+", log.name)[-1])
        )
        return [log.read_text() for log in found]

    def result(self, cell: str, name: str) -> bytes:
        return (self.folder / "results/runs" / cell / name).read_bytes()

    def cells(self) -> list[str]:
        """Return the cells that have a result."""
        runs = self.folder / "results/runs"
        return sorted(str(path.parent.relative_to(runs)) for path in runs.rglob("metrics.json"))

    def tables(self) -> dict[str, object]:
        """Return the tables; of those that hold times and memory, the columns that hold none."""
        found = {path.name: path.read_bytes() for path in (self.folder / "results/tables").iterdir()}
        told: dict[str, object] = {name: text for name, text in found.items() if not name.startswith(TIMED)}
        for name in sorted(found.keys() & {f"{stem}.csv" for stem in TIMED}):
            rows = csv.DictReader(found[name].decode().splitlines())
            told[name] = [{key: row[key] for key in row if not MEASURED.search(key)} for row in rows]
        return told


TIMED = ("cost", "resources", "runs", "teachers")
MEASURED = re.compile("seconds|per_second|memory|live_to_cached")
FAST = ("--slurm-init-seconds-before-status-checks", "2", "--max-status-checks-per-second", "5", "--latency-wait", "20")
"""A small cluster answers at once."""


def comment_of(cell: str) -> str:
    """Return how the comment begins that Snakemake's plugin gives a cell's job."""
    return "rule_train_wildcards_" + cell.replace("/seed", "/").replace("/", "_") + "_"


@dataclass
class Main:
    """A running main process."""

    process: subprocess.Popen
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float = 300) -> int:
        """Return its exit code; fails where it does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {seconds:.0f} s:\n{self.said[-3000:]}") from None

    def succeed(self, seconds: float = 300) -> str:
        """Wait; return what it said. Fails where it fails."""
        code = self.wait(seconds)
        assert code == 0, f"exit code {code}:\n{self.said[-6000:]}"
        return self.said

    def kill(self) -> None:
        """SIGKILL the main process alone, as the machine's memory killer would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def until(condition: Callable[[], object], what: str, seconds: float = 400) -> None:
    """Wait for something that has to happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)


def json_of(path: Path) -> dict:
    return json.loads(path.read_text())
