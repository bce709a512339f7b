"""The site: partitions, GPUs and settings, as SLURM itself tells them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from clipkd.workflow.slurm.commands import ask


@dataclass
class Partition:
    """A partition, and the best that one of its nodes offers."""

    name: str
    is_up: bool
    minutes: int | None
    """The longest job; None: no limit."""
    preempt_mode: str
    """What happens to its jobs when others come first: OFF, REQUEUE, CANCEL, SUSPEND, ..."""
    tier: int = 1
    """Jobs of a higher tier may take the nodes away."""
    gpus: dict[str, int] = field(default_factory=dict)
    """GPU type ("" where it has none) -> how many in a node."""
    memory_mb: int = 0
    cpus: int = 1


def settings() -> dict[str, str]:
    """Return the controller's settings, name -> value."""
    pairs = re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", ask("scontrol", "show", "config"), re.MULTILINE)
    return dict(pairs)


def partitions() -> dict[str, Partition]:
    """Return the partitions by name."""
    found = {}
    for line in ask("scontrol", "show", "partition", "--oneliner").splitlines():
        told = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" in told:
            name = told["PartitionName"]
            is_up, limit = told.get("State") == "UP", minutes(told.get("MaxTime", "UNLIMITED"))
            tier = int(told.get("PriorityTier", "1"))
            found[name] = Partition(name, is_up, limit, told.get("PreemptMode", "OFF"), tier)
    for line in ask("sinfo", "--noheader", "--Node", "--format=%R|%G|%m|%c").splitlines():
        name, gres, memory, cpus = line.split("|")
        if name in found:
            known = found[name]
            known.memory_mb = max(known.memory_mb, int(memory.rstrip("+")))
            known.cpus = max(known.cpus, int(cpus.rstrip("+")))
            for kind, count in gpus(gres).items():
                known.gpus[kind] = max(known.gpus.get(kind, 0), count)
    return found


def gpus(gres: str) -> dict[str, int]:
    """Return the GPUs that a node's generic resources name: type -> count.

    SLURM writes `gpu:2`, `gpu:a100:4(S:0-1)`, `gpu:nvidia_a100-sxm4-80gb:8`, or `(null)`; several with commas.
    """
    found: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu(?::([^:,()]+))?:(\d+)(?=[(,]|$)", gres):
        found[kind] = found.get(kind, 0) + int(count)
    return found


def minutes(text: str) -> int | None:
    """Return a SLURM time in minutes; None for no limit. `MM`, `MM:SS`, `HH:MM:SS`, `D-HH[:MM[:SS]]`."""
    if text.upper() in {"UNLIMITED", "INFINITE", "NONE"}:
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, mins = [*parts, 0][:2]
        return int(days) * 1440 + hours * 60 + mins
    if len(parts) == 3:
        return parts[0] * 60 + parts[1]
    return parts[0]


def seconds(text: str) -> int:
    """Return a setting like `300 sec` as a number; 0 where it is none."""
    number = re.match(r"\d+", text)
    return int(number.group()) if number else 0
