"""The preflight: what would fail or hang on this cluster, found before the first job is submitted."""

from __future__ import annotations

import operator
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from clipkd.core.errors import MachineError
from clipkd.workflow.checks import Findings
from clipkd.workflow.slurm import site, status
from clipkd.workflow.slurm.commands import absent, ask

SHORT_KILL_WAIT = 20
"""Seconds between SIGTERM and SIGKILL that a training needs to reach the edge of a step and save."""
FREE_NODE_SECONDS, PROBE_MB = 30, 1000
AMOUNTS = ("minutes", "memory_mb", "cpus", "most_memory_mb")
"""What of a request a partition may have more of than is asked for."""
NO_CLUSTER = "configuration source"
"""In the words of SLURM's commands where they find no cluster's configuration."""


@dataclass(frozen=True, order=True)
class Request:
    """What a job asks for."""

    partition: str
    gpus: int = 0
    gpu_model: str = ""
    minutes: int = 1
    memory_mb: int = 0
    account: str = ""
    cpus: int = 1
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    most_memory_mb: int = 0
    """What a retry may ask for, after attempts that ran out of memory."""

    @property
    def partitions(self) -> list[str]:
        """The partitions that may run it, of a list with commas."""
        return [name.strip() for name in self.partition.split(",")]

    def amounts(self) -> tuple[int, ...]:
        """Return how much is asked for."""
        return tuple(getattr(self, name) for name in AMOUNTS)

    def covers(self, other: Request) -> bool:
        """Return whether it asks for the same, and for as much of it or more."""
        kinds = (
            [getattr(one, field.name) for field in fields(one) if field.name not in AMOUNTS] for one in (self, other)
        )
        return operator.eq(*kinds) and all(map(operator.ge, self.amounts(), other.amounts()))

    def flags(self) -> list[str]:
        """Return what sbatch and srun are given."""
        gpus = f"--gpus={self.gpu_model}:{self.gpus}" if self.gpu_model else f"--gpus={self.gpus}"
        return [
            f"--partition={self.partition}",
            *([gpus] if self.gpus else []),
            *([f"--mem={self.memory_mb}"] if self.memory_mb else []),
            *([f"--cpus-per-task={self.cpus}"] if self.cpus > 1 else []),
            *(
                f"--{name}={value}"
                for name in ("account", "qos", "constraint", "reservation")
                if (value := getattr(self, name))
            ),
        ]


def largest(requests: Iterable[Request]) -> list[Request]:
    """Return the requests that no other of their kind covers: what runs these runs them all."""
    kept: list[Request] = []
    for one in sorted(set(requests), key=Request.amounts, reverse=True):
        if not any(other.covers(one) for other in kept):
            kept.append(one)
    return sorted(kept)


def preflight(requests: Iterable[Request]) -> tuple[Findings, str]:
    """Check the cluster for what is going to be asked of it.

    Returns:
        The findings, and the command that tells how a job ended ("" where none does).
    """
    findings = Findings()
    if missing := absent():
        findings.error("commands", f"{', '.join(missing)} not found: run this on a login node of the cluster")
        return findings, ""
    try:
        settings, partitions = site.settings(), site.partitions()
    except MachineError as error:
        # SLURM is installed, and configured for no cluster.
        where = ": run this on a login node of the cluster" if NO_CLUSTER in str(error) else ""
        findings.error("controller", f"{error}{where}")
        return findings, ""
    findings.ok("controller", f"{settings.get('ClusterName', 'SLURM')}, {settings.get('SLURM_VERSION', '')}")
    command = check_status(settings, findings)
    able: dict[str, site.Partition] = {}
    for request in largest(requests):
        able |= check_request(request, partitions, findings)
    for found in able.values():
        check_preemption(found, partitions, settings, findings)
    wait = site.seconds(settings.get("KillWait", "30"))
    if wait < SHORT_KILL_WAIT:
        findings.warn(
            "KillWait", f"a cancelled job has {wait} s to save a checkpoint; a slower one resumes from the one before"
        )
    return findings, command


def check_status(settings: dict[str, str], findings: Findings) -> str:
    """Find the status command."""
    try:
        chosen = status.source(settings)
    except MachineError as error:
        findings.error("status", str(error))
        return ""
    findings.ok("status", f"{chosen.command} ({chosen.reason})")
    return chosen.command


def check_request(
    request: Request, partitions: dict[str, site.Partition], findings: Findings
) -> dict[str, site.Partition]:
    """Check whether a partition, or one of a list, can ever run what is asked of it; return those that can."""
    where = "name it in the first lines of profiles/slurm/config.yaml"
    able: dict[str, site.Partition] = {}
    unable: dict[str, str] = {}
    for name in request.partitions:
        found = partitions.get(name)
        if found is None:
            unable[name] = f"does not exist (known: {', '.join(sorted(partitions)) or 'none'})"
        elif problems := problems_of(request, found):
            unable[name] = "; ".join(problems)
        else:
            able[name] = found
    for name, why in unable.items():
        add = findings.warn if able else findings.error
        add(f"partition {name}", f"{why}; {where}" + ("; the others of the list may run it" if able else ""))
    if not able:
        return able
    name = f"partition {request.partition}"
    try:
        ask("sbatch", "--test-only", *request.flags(), f"--time={request.minutes}", "--wrap=true")
    except MachineError as error:
        findings.error(name, f"SLURM would reject a job with {' '.join(request.flags())}: {error}")
        return able
    kinds: dict[str, int] = {}
    for found in able.values():
        kinds |= {kind: max(count, kinds.get(kind, 0)) for kind, count in found.gpus.items()}
    gpus = ", ".join(f"{count} {kind or 'GPU'}" for kind, count in sorted(kinds.items()))
    findings.ok(name, f"takes jobs of {request.minutes} minutes{f', {gpus} a node' if request.gpus else ''}")
    largest_mb = max(found.memory_mb for found in able.values())
    if request.most_memory_mb > largest_mb:
        findings.warn(
            name,
            f"a job that runs out of memory may ask for {request.most_memory_mb} MB when it is retried, more than the "
            f"largest node has ({largest_mb} MB): SLURM would refuse that retry; set mem_mb of its rule in the profile",
        )
    return able


def problems_of(request: Request, found: site.Partition) -> list[str]:
    """Return why a partition can never run a request."""
    problems = []
    if not found.is_up:
        problems.append("is not up")
    if found.minutes is not None and request.minutes > found.minutes:
        problems.append(
            f"runs no job longer than {found.minutes} minutes, but {request.minutes} are requested: lower `longest_job`"
        )
    if request.gpus and not found.gpus:
        problems.append("has no GPU")
    elif request.gpus and request.gpu_model and request.gpu_model not in found.gpus:
        problems.append(f"has no GPU of type '{request.gpu_model}' (there are: {', '.join(sorted(found.gpus)) or '-'})")
    if request.memory_mb > found.memory_mb:
        problems.append(f"has no node with {request.memory_mb} MB (the largest has {found.memory_mb} MB): lower mem_mb")
    if request.cpus > found.cpus:
        problems.append(
            f"has no node with {request.cpus} CPUs (the largest has {found.cpus}): lower cpus_per_task, or group "
            "fewer jobs"
        )
    return problems


def check_preemption(
    found: site.Partition, partitions: dict[str, site.Partition], settings: dict[str, str], findings: Findings
) -> None:
    """Check what happens to a job whose node others take."""
    kind = settings.get("PreemptType", "preempt/none")
    modes = {mode for mode in found.preempt_mode.upper().split(",") if mode not in {"GANG", "OFF"}}
    others = [other.name for other in partitions.values() if other.tier > found.tier]
    if kind.endswith("/none") or not modes or (kind.endswith("partition_prio") and not others):
        return
    by = f" by jobs in {', '.join(others)}" if others else ""
    if "CANCEL" in modes:
        findings.warn(
            f"partition {found.name}",
            f"jobs preempted{by} are cancelled (PreemptMode=CANCEL): each time uses one of a job's `retries`, which "
            "resumes from its last checkpoint; prefer a partition that requeues, or is not preempted",
        )
    else:
        findings.ok(f"partition {found.name}", f"preempted jobs{by} are requeued and resume")


def check_node(request: Request, folder: Path, latency_wait: int, findings: Findings) -> None:
    """Run a command on a node: does it see the program and the folder, and how soon is what it writes seen here?"""
    what = f"node of {request.partition}"
    clipkd = shutil.which("clipkd") or "clipkd (activate its environment first)"
    token = folder / f".clipkd-doctor-{uuid.uuid4().hex}"
    script = f'command -v clipkd && clipkd --version && hostname > "{token}" && date +%s.%N'
    # Little memory: where a site has no default, a job that names none waits for a whole node.
    little = replace(request, memory_mb=PROBE_MB, cpus=1)
    flags = [*little.flags(), "--ntasks=1", "--time=2", f"--immediate={FREE_NODE_SECONDS}", "--quiet"]
    try:
        said = ask("srun", *flags, "sh", "-c", script, seconds=FREE_NODE_SECONDS + 60)
    except MachineError as error:
        if "Unable to allocate" in str(error) or "immediate" in str(error).lower():
            findings.warn(what, f"not checked: none was free within {FREE_NODE_SECONDS} s")
        else:
            findings.error(what, f"can't run `clipkd` in {folder} ({error}): nodes must see {clipkd} and this folder")
        return
    end = time.time() + 2 * latency_wait
    while not token.exists() and time.time() < end:
        time.sleep(0.05)
        os.listdir(folder)  # makes a network file system look again
    if not token.exists():
        findings.error(what, f"what it writes into {folder} is not seen here after {2 * latency_wait} s")
        return
    late = max(0.0, time.time() - float(said.splitlines()[-1]))
    node = token.read_text(encoding="utf-8").strip()
    token.unlink()
    told = f"{node} runs {said.splitlines()[0]}; a file that it writes is seen here after {late:.1f} s"
    if late > latency_wait / 2:
        findings.warn(what, f"{told}: raise latency-wait ({latency_wait} s) in the profile")
    else:
        findings.ok(what, told)
