"""Rounds: contenders timed in turn, so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

Contender = Callable[[], object]


@dataclass
class Times:
    """What each round of one contender took."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of all threads and of child processes (a loader's workers)."""

    @property
    def summary(self) -> dict[str, float]:
        """Medians, in seconds, and the spread of the CPU seconds."""
        return {
            "wall_s": round(statistics.median(self.wall), 4),
            "cpu_s": round(statistics.median(self.cpu), 4),
            "cpu_s_lowest": round(min(self.cpu), 4),
            "cpu_s_highest": round(max(self.cpu), 4),
            "rounds": len(self.cpu),
        }


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children: those that have ended, and those that run."""
    mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime
    return ended + sum(running_seconds(child.pid) for child in multiprocessing.active_children())


def counts_running() -> bool:
    """Return whether the CPU seconds of a child that runs can be read here."""
    return Path("/proc/self/stat").exists()


def running_seconds(pid: int | None) -> float:
    """Return the CPU seconds of a process that runs; 0 where it has just ended, or the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def settled() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(times: Times, contender: Contender, repeats: int = 1) -> None:
    """Run a contender and note what it took: once, or one of several runs after one that is not counted."""
    if repeats > 1:
        contender()
    settled()
    wall, cpu = time.perf_counter(), cpu_seconds()
    for _ in range(repeats):
        contender()
    settled()
    times.wall.append((time.perf_counter() - wall) / repeats)
    times.cpu.append((cpu_seconds() - cpu) / repeats)


def interleaved(
    contenders: dict[str, Contender], rounds: int, repeats: Mapping[str, int] | None = None
) -> dict[str, Times]:
    """Run every contender once to warm up, then `rounds` times in turn.

    Args:
        contenders: what is timed, by name.
        rounds: how many times.
        repeats: the runs in each round of a contender that is much shorter than those beside it. What ran before leaves
            the processor's caches and the freed memory to its first one, which does not count.
    """
    times = {name: Times() for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            if number == 0:
                timed(Times(), contender)
            else:
                timed(times[name], contender, (repeats or {}).get(name, 1))
        print(f"  round {number} of {rounds}: {', '.join(contenders)}", file=sys.stderr, flush=True)
    return times


def matrix_peak(device: torch.device, size: int = 1536, rounds: int = 5, dtype: torch.dtype = torch.float32) -> float:
    """Return the speed of a large matrix product by torch's `@`, in GFLOP/s: the best of several rounds."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(rounds):
        settled()
        start = time.perf_counter()
        for _ in range(3):
            left @ right
        settled()
        best = max(best, 3 * 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best
