"""Earlier attempts at a job, by their logs: which of them were killed, as a job is that needs more memory than it has.

SLURM may report such a job only as failed, and Snakemake tells a retry nothing but its number. The logs tell more: each
attempt has its own (workflow/rules/cluster.smk), and a command that ends by itself, or by a signal that it hears, says
so. One that SIGKILL ends says nothing.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

MOST = 3
"""Memory grows to so many times a job's usual one, at most."""
JOB = re.compile(r"\Aattempt \d+ on .*, SLURM job (\d+)$", re.MULTILINE)
LAST_WORDS = re.compile(r"^(clipkd [a-z]+: |Traceback \(most recent call last\))", re.MULTILINE)
KILLED_WITHIN = re.compile(r"was killed by SIGKILL|out of memory (on cpu|\((?!CUDA|HIP))")
"""One of the processes of a command that goes on; or the command says itself that the computer's memory ran out."""


def memory_mb(usual: int, log: Path, attempt: int) -> int:
    """Return the memory that a job asks for: its usual one, and as much again for each attempt that was killed.

    Args:
        usual: megabytes.
        log: of the job; those of its attempts lie beside it.
        attempt: Snakemake's, from 1. The logs before those of this many attempts are of earlier, successful jobs.
    """
    return usual * min(MOST, 1 + killed(log, attempt - 1))


def killed(log: Path, failed: int) -> int:
    """Return how many of the last attempts at a job, which failed, were killed without a word."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in attempts(log)]
    jobs = [match[1] if (match := JOB.search(text)) else None for text in texts]
    # A job that SLURM has put back into the queue has not failed: its next attempt has the same number.
    ends = [text for text, (job, later) in zip(texts, pairwise([*jobs, None]), strict=True) if not job or job != later]
    return sum(map(was_killed, ends[len(ends) - min(failed, len(ends)) :]))


def attempts(log: Path) -> list[Path]:
    """Return the logs of a job's attempts, in their order."""
    found = log.parent.glob(f"{log.stem}.attempt*.log")
    return sorted(found, key=lambda path: int(path.name.removesuffix(".log").rpartition("attempt")[2]))


def was_killed(text: str) -> bool:
    """Return whether an attempt that failed was killed, by its log."""
    return not LAST_WORDS.search(text) or KILLED_WITHIN.search(text) is not None
