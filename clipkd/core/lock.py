"""One writer a folder: a lock that the kernel drops with its holder, and that says who holds it. No torch here.

The holder keeps the file `.lock` locked (flock) and its name in it. On one machine the kernel's lock alone
decides, and a killed holder leaves none. Between machines flock may not reach: there the name decides, and
it is only passed over where its holder is provably dead.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from clipkd.core.errors import MachineError

NAME = ".lock"
SQUEUE_SECONDS = 20


@dataclass(frozen=True)
class Holder:
    """A process that writes into a folder."""

    host: str
    boot: str
    """The kernel's id of this start of the machine."""
    pid: int
    started: str
    """When the process began, in the kernel's ticks: a later process with the same number differs."""
    job: str | None
    """Its SLURM job."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (SLURM job {self.job})" if self.job else "")


def this_process() -> Holder:
    """Return what stands for this process."""
    return holder(os.getpid(), os.environ.get("SLURM_JOB_ID"))


def holder(pid: int, job: str | None = None) -> Holder:
    """Return what stands for a process of this machine."""
    return Holder(socket.gethostname(), boot_id(), pid, started(pid), job)


@contextmanager
def acquire(folder: Path) -> Iterator[None]:
    """Hold the folder's lock while the block lasts.

    Raises:
        MachineError: another process writes into the folder, or may do so; names it.
    """
    path = folder / NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        is_ours = locked(descriptor)
        other = holder_of(descriptor)
        if not is_ours or (other is not None and not is_dead(other)):
            advice = f"; where it is certain that it no longer runs, remove {path}" if is_ours else ""
            raise MachineError(f"{folder} is being written by {other or 'another process'}: wait for it{advice}")
        put(descriptor, json.dumps(asdict(this_process())))
        try:
            yield
        finally:
            put(descriptor, "")
    finally:
        os.close(descriptor)


def locked(descriptor: int) -> bool:
    """Take the kernel's lock; return whether nobody else holds it (a file system without such locks: True)."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def holder_of(descriptor: int) -> Holder | None:
    """Return who the lock file names; None where it names nobody."""
    text = os.pread(descriptor, 4096, 0)
    try:
        return Holder(**json.loads(text)) if text else None
    except (ValueError, TypeError):  # cut off while it was written: by a process that died with it
        return None


def put(descriptor: int, text: str) -> None:
    """Write the lock file's content, to the disk itself."""
    os.pwrite(descriptor, text.encode(), 0)
    os.ftruncate(descriptor, len(text.encode()))
    os.fsync(descriptor)


def is_dead(holder: Holder) -> bool:
    """Return whether a holder is provably dead."""
    if holder.host == socket.gethostname():
        return holder.boot != boot_id() or started(holder.pid) != holder.started
    if holder.job is None:
        return False
    # An earlier start of our own job, which SLURM has put back into the queue, has ended before this one began.
    return holder.job == os.environ.get("SLURM_JOB_ID") or job_has_ended(holder.job)


def job_has_ended(job: str) -> bool:
    """Return whether SLURM says that a job is over; False where it can't be asked."""
    if shutil.which("squeue") is None:
        return False
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"],
            capture_output=True, text=True, timeout=SQUEUE_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return False
    if answer.returncode != 0:
        return "Invalid job id" in answer.stderr
    going_on = {"RUNNING", "PENDING", "SUSPENDED", "STOPPED", "CONFIGURING", "COMPLETING", "REQUEUED", "RESIZING"}
    return not going_on & set(answer.stdout.split())


def boot_id() -> str:
    """Return what tells this start of the machine from an earlier one; empty where the kernel does not say."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="ascii").strip() if path.exists() else ""


def started(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; empty where there is none."""
    try:
        # The command's name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
