"""Builds an artefact in a process of its own, slowly if asked, so that a test can kill it or race it.

python writer.py FOLDER SECONDS [MODE]: two arrays, SECONDS / 10 between the steps of sealing. It prints "ready"
when it begins; with MODE `wait` it then waits for a line on standard input.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from clipkd.core.artifacts import building

IDENTITY = {"made": "by writer.py", "numbers": [1, 2]}


def arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"first": draw.random((64, 16), dtype=np.float32), "second": draw.integers(0, 9, 500)}


def slow(seconds: float) -> None:
    """Make each flush to the disk, which sealing does between its steps, take long."""
    flush = os.fsync

    def slow_flush(descriptor: int) -> None:
        time.sleep(seconds / 10)
        flush(descriptor)

    os.fsync = slow_flush


def main() -> None:
    folder, seconds, mode = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    print("ready", flush=True)
    if mode == ["wait"]:
        sys.stdin.readline()
    slow(seconds)
    with building(folder, "toy", IDENTITY) as draft:
        for name, array in arrays().items():
            time.sleep(seconds / 10)
            np.save(draft.path / f"{name}.npy", array)
        draft.facts["rows"] = 64


if __name__ == "__main__":
    main()
