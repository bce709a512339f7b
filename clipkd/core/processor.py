"""What is measured of this machine's processor: once, and then remembered in the user's cache folder.

Two processors of one displayed name can differ in what is fast on them, so it is measured rather than looked up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from clipkd.core.cache import folder
from clipkd.core.device import cpuinfo, processor_name
from clipkd.core.errors import ClipkdError
from clipkd.core.files import json_text, read_json
from clipkd.core.fingerprint import digest

OF_A_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU part", "Features")
"""What Linux says of a processor and what its speed depends on: two of one name may differ in it."""


def remembered(
    what: str, version: int, names: Collection[str], measure: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Return ratios of times as they were measured the first time, for this processor and version of torch.

    Where the cache folder can't be written, each command measures them.

    Args:
        what: the name of the measurement.
        version: bumped when the measurement changes: machines are then measured again.
        names: what is measured.
        measure: returns a positive number for each name.
    """
    try:
        path = memory(what, version)
    except RuntimeError:  # the user has no home
        return measure()
    if (found := recalled(path, what, names)) is not None:
        return found
    with suppress(OSError):
        path.unlink(missing_ok=True)  # it says nothing
    measured = measure()
    text = json_text({"processor": processor_name(), "torch": torch.__version__, what: measured})
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("x", encoding="utf-8") as stream:  # of several that measure at once, one is the first
            stream.write(text)
    # What lies there counts, so that all compute alike.
    return recalled(path, what, names) or measured


def recalled(path: Path, what: str, names: Collection[str]) -> dict[str, float] | None:
    """Return what a memory says; None if there is none, or it says nothing."""
    with suppress(ClipkdError, OSError, TypeError, KeyError, ValueError):
        said = read_json(path)[what]
        found = {name: float(said[name]) for name in names}
        if all(0 < number < math.inf for number in found.values()):
            return found
    return None


def memory(what: str, version: int) -> Path:
    """Return the file that remembers a measurement of this processor with this torch."""
    said = cpuinfo()
    found = {"name": processor_name(), "torch": torch.__version__, "measurement": what, "version": version}
    found |= {key: said[key] for key in OF_A_PROCESSOR if key in said}
    return folder() / "clipkd" / "processors" / f"{digest(found)[:32]}.json"


def least_seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the least time of each work, on one thread: other processes only ever add to a time.

    The works take turns, forwards and backwards: what ran just before changes a time too.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    took: dict[str, list[float]] = {name: [] for name in works}
    try:
        for turn in range(rounds + 1):  # the first is for warming up
            for name in list(works)[:: -1 if turn % 2 else 1]:
                took[name].append(seconds_of(works[name]))
    finally:
        torch.set_num_threads(threads)
    return {name: min(times[1:]) for name, times in took.items()}


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
