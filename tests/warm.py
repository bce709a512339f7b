"""`clipkd` as a process of its own that has torch imported already: forked from a server that the session starts once.

For tests of what a run does; those of the command line itself, of imports and of settings that libraries read when
they are imported start the program afresh.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# A server that the code under test started before has its own list: then processes start slower, and do the same.
CONTEXT.set_forkserver_preload(["clipkd.cli", "clipkd.runs.assignment", "clipkd.core.vision", "transformers"])


def clipkd(
    *words: object, cwd: Path | None = None, check: bool = True, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command as `subprocess.run` does; AssertionError where it fails and `check` is True, or hangs."""
    command = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("stdout", "stderr")]
        process = CONTEXT.Process(target=work, args=(command, str(cwd or Path.cwd()), dict(os.environ), said))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"clipkd {' '.join(command)} hangs for {timeout} s")
        answer = subprocess.CompletedProcess(command, process.exitcode, *(path.read_text() for path in said))
    if check:
        assert answer.returncode == 0, answer.stderr
    return answer


def work(command: list[str], cwd: str, environment: dict[str, str], said: list[Path]) -> None:
    """Do the command, in the process that was forked for it."""
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    from clipkd.cli import main

    sys.exit(main(command))
