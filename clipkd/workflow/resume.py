"""Resumption: everything that must be over and settled before a workflow goes on after a crash."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from clipkd.core import lock
from clipkd.core.errors import MachineError
from clipkd.core.progress import say
from clipkd.spec.layout import RUNS
from clipkd.workflow import session
from clipkd.workflow.slurm import jobs

SECONDS_TO_SAVE = 900.0
SECONDS_ALONE = 60.0
"""How long the Snakemake of a single job may go without a process that works for it before it is taken to hang."""
DIRECTORY = {"--directory", "-d"}
"""Snakemake's options for a working folder that is not the one it is called in."""
SNAKEMAKE = [sys.executable, "-m", "snakemake"]


def prepare(folder: Path, let_finish: bool, after_restart: bool = False) -> tuple[list[str], lock.Lock]:
    """Settle what an earlier main process left; return the command that goes on, and the lock that it inherits.

    Args:
        folder: the workflow's.
        let_finish: let what still runs finish, instead of having it saved and stopped.
        after_restart: take locks of an earlier start of a machine with this name as given back.

    Raises:
        InputError: no workflow was started here.
        MachineError: another main process lives or may live, SLURM gives no answer, or something does not end.
    """
    started = session.last_started(folder)
    if after_restart:
        release_earlier_boot(folder)
    held = session.take(folder)
    if started.executor == "slurm":
        jobs.end(folder, let_finish)
    end_orphans(folder, let_finish)
    command = [*SNAKEMAKE, *started.arguments]
    # First, so that no option of the user's swallows it, and before `--`, which begins the targets.
    unlock = [*SNAKEMAKE, "--unlock", *started.arguments]
    answer = subprocess.run(unlock, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if answer.returncode != 0:
        said = answer.stdout.strip()
        if any(word.partition("=")[0] in DIRECTORY for word in started.arguments):
            given = shlex.join(started.arguments)
            raise MachineError(
                "this workflow was started elsewhere, with --directory: its files may not be found from here. "
                f"What it left has ended: there, give `snakemake --unlock {given}`, then `snakemake {given}`"
                f"\n{said}"
            )
        raise MachineError(f"snakemake --unlock failed:\n{said}")
    return command, held


def end_orphans(folder: Path, let_finish: bool, seconds: float = SECONDS_TO_SAVE) -> None:
    """Have trainings on this machine that outlived their main process save themselves, and wait until they ended.

    The Snakemake of a single job can hang on a signal that comes while it shuts down. It has nothing to save: where
    nothing works for it any more, it is killed.

    Raises:
        MachineError: one does not end.
    """
    holders = {run: living(run) for run in locked_in(folder / RUNS)}
    orphans = {holder: f"{run} is still trained by" for run, holder in holders.items() if holder is not None}
    orphans = dict.fromkeys(beginning(folder), "a training is begun by") | orphans
    for holder, what in orphans.items():
        say(f"{what} {holder}: " + ("waiting for it" if let_finish else "it saves and stops"))
        if not let_finish:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.kill(holder.pid, signal.SIGTERM)
    limit = time.monotonic() + seconds
    alone: dict[lock.Holder, float] = {}
    while alive := [holder for holder in orphans if not lock.is_dead(holder)]:
        now = time.monotonic()
        alone = {holder: alone.get(holder, now) for holder in alive if is_alone(holder.pid)}
        for holder, since in alone.items():
            if now - since > SECONDS_ALONE:
                say(f"{holder} hangs: killed")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(holder.pid, signal.SIGKILL)
        if now > limit and not let_finish:
            raise MachineError(f"{', '.join(map(str, alive))}: still running {seconds:.0f} s after the signal to stop")
        time.sleep(0.2)


def release_earlier_boot(folder: Path) -> None:
    """Give back the main process's lock, and those of runs and embeddings, whose machine was restarted."""
    places = [*locked_in(folder / RUNS), *locked_in(folder / "data")]
    released = [place for place in places if lock.release_earlier_boot(place)]
    is_main = lock.release_earlier_boot(folder / session.FILE.parent, session.LOCK)
    say(f"locks from before the restart: {len(released) + is_main} given back")


def locked_in(folder: Path) -> list[Path]:
    """Return the folders at any depth that have, or had, a lock."""
    return sorted({path.parent for path in folder.rglob(f"{lock.NAME}*")})


def living(folder: Path) -> lock.Holder | None:
    """Return the process of this machine that holds a run folder's lock; None without one."""
    path = lock.newest(folder)
    holder = lock.named_in(path) if path else None
    if holder is None or holder.host != socket.gethostname() or lock.is_dead(holder):
        return None
    return holder if holder.boot == lock.boot_id() else None


def beginning(folder: Path) -> list[lock.Holder]:
    """Return the processes in the folder that train, or are about to, by their command lines.

    They may hold no lock yet: Python takes seconds to start. (Linux tells; elsewhere none is found.)
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, where = words_of(process), (process / "cwd").readlink()
        except OSError:  # it has ended, or is another user's
            continue
        if where == folder.resolve() and (is_training(words) or is_job(words)):
            found.append(lock.holder(int(process.name)))
    return found


def words_of(process: Path) -> list[str]:
    """Return the command line of a process, given its folder below /proc."""
    return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")


def is_alone(pid: int) -> bool:
    """Return whether a process is the Snakemake of a single job, and has no living child."""
    try:
        if not is_job(words_of(Path(f"/proc/{pid}"))):
            return False
    except OSError:
        return False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                return False
    return True


def is_training(words: list[str]) -> bool:
    """Return whether a command line is `clipkd train`'s, for the workflow's run folders."""
    if not any(Path(command).name == "clipkd" and verb == "train" for command, verb in pairwise(words)):
        return False
    # argparse takes --log-folder=X, and flags that are cut short.
    flags = [word.partition("=") for word in words]
    folders = [
        Path(value if sign else following)
        for (flag, sign, value), following in zip(flags, [*words[1:], ""], strict=True)
        if flag.startswith("--lo") and "--log-folder".startswith(flag)
    ]
    return all(RUNS in folder.parents for folder in folders)


def is_job(words: list[str]) -> bool:
    """Return whether a command line is that of the Snakemake which runs a single job for a main process."""
    return "--target-jobs" in words and any(Path(word).name == "snakemake" for word in words)


def go_on(command: list[str], held: lock.Lock) -> None:
    """Become the Snakemake that goes on, with the lock."""
    os.set_inheritable(held.descriptor, True)
    os.environ[session.INHERITED] = str(held.descriptor)
    say("resuming: snakemake " + " ".join(command[len(SNAKEMAKE) :]))
    sys.stdout.flush()
    os.execv(command[0], command)
