"""SLURM's commands, each with a limit of time."""

from __future__ import annotations

import shutil
import subprocess

from clipkd.core.errors import MachineError

NEEDED = ("sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel")
SECONDS = 60.0
"""A busy controller may take long; Snakemake's plugin waits as long for a status."""


def ask(*command: str, seconds: float = SECONDS) -> str:
    """Return what a command prints.

    Raises:
        MachineError: it is not here, takes too long or fails; the message has its own words.
    """
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        raise MachineError(f"{command[0]} not found: run this on a login node of the cluster") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"{command[0]} gave no answer within {seconds:.0f} s: SLURM is overloaded or down") from None
    if answer.returncode != 0:
        raise MachineError(f"{command[0]}: {last_line(answer.stderr) or last_line(answer.stdout) or 'failed'}")
    return answer.stdout + (answer.stderr if "--test-only" in command else "")


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def absent() -> list[str]:
    """Return the commands that are not on this machine."""
    return [name for name in NEEDED if shutil.which(name) is None]
