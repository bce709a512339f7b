"""`clipkd doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.core.errors import MachineError
from clipkd.core.words import counted
from clipkd.workflow.doctor import check_up
from clipkd.workflow.slurm.preflight import check_node, preflight
from clipkd.workflow.slurm.profile import Profile

TEXT = "Check this machine, or with --slurm this cluster, for everything the workflow needs."
EXAMPLES = """\
examples:
  clipkd doctor
  clipkd doctor --slurm
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("--slurm", action="store_true", help="also the cluster, and a node of each partition")
    child.add_argument(
        "--profile", type=Path, default=Path("profiles/slurm"), help="the Snakemake profile that names the partitions"
    )
    child.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: the grid trains without a GPU (training.device)"
    )


def run(options: argparse.Namespace) -> None:
    findings = check_up(Path())
    if options.slurm:
        profile = Profile.read(options.profile)
        requests = profile.requests(options.device)
        found, _ = preflight(requests)
        findings.found += found.found
        if not found.errors:
            for request in dict.fromkeys(requests):
                check_node(request, Path(), profile.latency_wait, findings)
    for finding in findings.found:
        print(finding)
    if findings.errors:
        raise MachineError(f"{counted(len(findings.errors), 'check')} failed; see the errors above")
