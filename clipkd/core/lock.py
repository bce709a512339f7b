"""One writer a folder: a lock that holds on every file system, and that says who holds it. No torch here.

Each holder creates the next of the files `.lock`, `.lock-1`, `.lock-2`, ... exclusively, with its name in it
(`created`); the one with the highest number decides. A lock is released by a word in its file, never by removing the
newest: so of all who saw the same dead or past holder, one creates the next file. Exclusive creation needs nothing
but a POSIX file system; the kernel's own locks (flock) are missing on some, and reach one machine only on others.
Where they work, they also protect a holder whose number another container reads as somebody else's.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from clipkd.core.disk import room_for
from clipkd.core.errors import MachineError
from clipkd.core.files import default_mode, naming

NAME = ".lock"
RELEASED = "released\n"
UNFINISHED = ".tmp"
WITHOUT_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}
"""What file systems answer that have no links."""
SECONDS_TO_NAME = 60.0
"""Without links, a lock file that has no name is being written; if it stays so for longer, its process died before."""
SQUEUE_SECONDS = 20
JOB = os.environ.get("SLURM_JOB_ID")
"""The SLURM job that this process began in: Snakemake's plugin removes the variable later."""


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
    restarts: int = 0
    """How often SLURM had put this job back into the queue."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (SLURM job {self.job})" if self.job else "")


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """Give the lock back."""
        put(self.descriptor, RELEASED)
        os.close(self.descriptor)


def this_process() -> Holder:
    """Return what stands for this process."""
    return holder(os.getpid(), os.environ.get("SLURM_JOB_ID", JOB))


def holder(pid: int, job: str | None = None) -> Holder:
    """Return what stands for a process of this machine."""
    return Holder(socket.gethostname(), boot_id(), pid, started(pid), job, restarts() if job else 0)


def restarts() -> int:
    """Return how often SLURM has put this process's job back into the queue."""
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdigit() else 0


class Busy(MachineError):
    """Another process writes into a folder, or may do so."""


@contextmanager
def acquire(folder: Path) -> Iterator[None]:
    """Hold the folder's lock while the block lasts.

    Raises:
        Busy: another process writes into the folder, or may do so; names it.
    """
    try:
        lock = take(folder)
    except Held as held:
        raise Busy(f"{folder} is being written by {held.by}: wait for it{held.advice}") from None
    try:
        yield
    finally:
        lock.release()


class Held(Exception):
    """A lock is another process's: `by` names it, `advice` says what to do where it is certain that it is dead."""

    def __init__(self, path: Path, holder: Holder | None, *, is_certain: bool = False) -> None:
        super().__init__(path)
        self.by = str(holder or "another process")
        self.is_earlier_boot = holder is not None and of_earlier_boot(holder)
        if self.is_earlier_boot:
            self.by += ", before this machine was restarted, or on another machine of the same name"
        self.advice = "" if is_certain else f"; where it is certain that it no longer runs, remove {path}"


def take(folder: Path, name: str = NAME) -> Lock:
    """Take a folder's lock.

    Raises:
        Held: by another process, or perhaps so.
    """
    before = newest(folder, name)
    if before is not None:
        refuse_held(before)
    path = folder / (name if before is None else f"{name}-{number_of(before) + 1}")
    try:
        descriptor = created(path)
    except FileExistsError:
        raise Held(path, named_in(path)) from None
    try:
        # Whoever was slow finds, after it has written its name, that the lock has gone on without it.
        latest = newest(folder, name)
        if latest != path:
            raise Held(latest or path, named_in(latest) if latest else None)
        if before is not None:
            refuse_held(before)
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    # The one before stays: whoever lists the folder at this moment must find one.
    for old in [*all_of(folder, name)[:-2], *folder.glob(f".{name}*{UNFINISHED}")]:
        old.unlink(missing_ok=True)
    return Lock(path, descriptor)


def created(path: Path) -> int:
    """Create a lock file that names this process, and return its descriptor.

    It is a link to a file that is written already: there is no moment in which a process could be killed and leave a
    lock without a name. Where the file system has no links, the file is created first.

    Raises:
        FileExistsError: another process has created it, or holds the lock and has tidied up.
    """
    with room_for(path):
        with naming(path):
            descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent)
        try:
            os.fchmod(descriptor, 0o644 & default_mode(is_folder=False))
            sign(descriptor)
            os.link(aside, path)
            return descriptor
        except FileNotFoundError as error:
            os.close(descriptor)
            raise FileExistsError(path) from error
        except OSError as error:
            if os.fstat(descriptor).st_nlink == 2:  # made, and only its answer was lost on the way
                return descriptor
            os.close(descriptor)
            if error.errno not in WITHOUT_LINKS:
                raise
        finally:
            Path(aside).unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            sign(descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor


def sign(descriptor: int) -> None:
    """Lock a file for the kernel, where it can, and write this process's name into it."""
    is_free(descriptor, fcntl.LOCK_EX)
    put(descriptor, json.dumps(asdict(this_process())))


def all_of(folder: Path, name: str = NAME) -> list[Path]:
    """Return the files of a folder's lock, the newest last."""
    return sorted(
        (path for path in folder.glob(f"{name}*") if re.fullmatch(r"(-\d+)?", path.name[len(name) :])), key=number_of
    )


def newest(folder: Path, name: str = NAME) -> Path | None:
    """Return the file that says who holds a folder's lock; None where nobody ever did."""
    return next(reversed(all_of(folder, name)), None)


def number_of(path: Path) -> int:
    """Return which of a lock's files this is."""
    return int(re.search(r"(\d*)$", path.name)[1] or 0)  # type: ignore[index]


def refuse_held(path: Path) -> None:
    """Raise Held unless a lock file's holder has given it back, or is provably dead."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:  # two others have taken and given back the lock meanwhile
        raise Held(path, None, is_certain=True) from None
    try:
        text = os.pread(descriptor, 4096, 0).decode(errors="replace")
        if text == RELEASED:
            return
        found = parsed(text)
        if found is None:
            if time.time() - os.fstat(descriptor).st_mtime < SECONDS_TO_NAME:
                raise Held(path, None)
            return
        is_here = found.host == socket.gethostname() and found.boot == boot_id()
        kernels = is_free(descriptor, fcntl.LOCK_SH) if is_here else None
        if kernels is False:
            raise Held(path, found, is_certain=True)
        is_over = kernels is True and not found.started  # no /proc: here the kernel's lock decides
        if os.fstat(descriptor).st_uid != os.geteuid():
            found = replace(found, job=None)  # many a SLURM hides the jobs of others: they would seem to be over
        if not is_over and not is_dead(found):
            raise Held(path, found, is_certain=is_here)
    finally:
        os.close(descriptor)


def is_held(folder: Path, name: str = NAME) -> bool:
    """Return whether another process holds a folder's lock, or may do so, without taking it."""
    path = newest(folder, name)
    try:
        if path is not None:
            refuse_held(path)
    except Held:
        return True
    return False


def release_earlier_boot(folder: Path, name: str = NAME) -> bool:
    """Release a lock whose holder's machine was restarted, as the user says; return whether there was one."""
    path = newest(folder, name)
    holder = named_in(path) if path else None
    if path is None or holder is None or not of_earlier_boot(holder):
        return False
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        put(descriptor, RELEASED)
    finally:
        os.close(descriptor)
    return True


def of_earlier_boot(holder: Holder) -> bool:
    """Return whether a holder is of a machine with this one's name, and of another start of it."""
    return holder.host == socket.gethostname() and holder.boot != boot_id()


def is_free(descriptor: int, operation: int) -> bool | None:
    """Take the kernel's lock; return whether nobody else holds it, None on a file system without such locks."""
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def named_in(path: Path) -> Holder | None:
    """Return who a lock file names; None where it names nobody."""
    try:
        return parsed(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def parsed(text: str) -> Holder | None:
    """Return the holder that a lock file's text is; None where it is none, whole or cut off."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def put(descriptor: int, text: str) -> None:
    """Write the lock file's content, to the disk itself."""
    os.pwrite(descriptor, text.encode(), 0)
    os.ftruncate(descriptor, len(text.encode()))
    os.fsync(descriptor)


def is_dead(holder: Holder) -> bool:
    """Return whether a holder is provably dead."""
    if holder.host == socket.gethostname() and holder.boot == boot_id():
        return started(holder.pid) != holder.started
    # Another start of a machine with this name may be another machine: only SLURM can tell.
    if holder.job is None:
        return False
    if holder.job == os.environ.get("SLURM_JOB_ID") and is_earlier_start(holder):
        return True
    return job_has_ended(holder.job)


def is_earlier_start(holder: Holder) -> bool:
    """Return whether a holder in our own job, elsewhere, is of a start before SLURM put the job back into the queue."""
    return restarts() > holder.restarts or os.environ.get("SLURM_JOB_NUM_NODES", "1") == "1"


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
