"""The spare: a second copy of a finished run's metrics.json, which Snakemake deletes before a job runs again.

Where the first copy is missing and all else of the run fits its manifest, `clipkd train` writes it anew. No torch here:
the Snakefile uses this.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

SPARE = ".metrics.json"
RESUME = ".resume"
"""The checkpoints of an unfinished run."""


def set_aside(result: Path) -> None:
    """Leave only the spare of a result whose job is about to run.

    The command finds out whether it is what the job asks for; while the job waits, it stands for nothing.
    """
    with suppress(FileNotFoundError):
        os.replace(result, result.with_name(SPARE))


def forget(result: Path) -> None:
    """Have the job of a result train from the beginning."""
    result.unlink(missing_ok=True)
    result.with_name(SPARE).unlink(missing_ok=True)
    shutil.rmtree(result.with_name(RESUME), ignore_errors=True)
