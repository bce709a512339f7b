"""Processes that die: children forked from this one, so that what it has imported costs them nothing."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

REFUSED, ERROR, SAVED = 3, 4, 5
"""Exit codes of a child: a ClipkdError or an OSError; any other error; a training that a signal stopped and saved."""
CALLS = ("open", "mkdir", "fsync", "rename", "replace", "chmod", "unlink", "rmdir", "write", "link", "symlink")
"""Functions of `os` that change what is on the disk, or open it."""


def forked(work: Callable[[], Any], before: Callable[[], Any] | None = None) -> int:
    """Do some work in a child of its own; return its process id.

    Args:
        work: what to do.
        before: done first, for example to set a limit.
    """
    child = os.fork()
    if child:
        return child
    # As in a process of its own: commands that earlier tests ran here have left their handlers.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    code = ERROR
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.dup2(null, 1)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # a pool of threads does not survive a fork
        if before is not None:
            before()
        work()
        code = 0
    except BaseException as error:
        code = REFUSED if isinstance(error, OSError) else CODES.get(type(error).__name__, ERROR)
        if code == ERROR and os.environ.get("CLIPKD_FAULTS_SHOW"):
            with open(os.environ["CLIPKD_FAULTS_SHOW"], "a") as stream:
                traceback.print_exc(file=stream)
    finally:
        os._exit(code)


CODES = {"InputError": REFUSED, "DataError": REFUSED, "MachineError": REFUSED, "DiskFull": REFUSED, "Busy": REFUSED}
CODES |= {"Interrupted": SAVED}


class Disk:
    """What a power failure would leave: knows what was flushed, and what was renamed before it was."""

    def __init__(self, monkeypatch: Any) -> None:
        self.flushed: dict[tuple[int, int], tuple[int, int]] = {}
        self.too_early: list[str] = []
        self.renamed, self.open_folders = 0, set[Path]()
        self.real = {name: getattr(os, name) for name in ("fsync", "replace", "rename")}
        monkeypatch.setattr(os, "fsync", self.fsync)
        for name in ("replace", "rename"):
            monkeypatch.setattr(os, name, partial(self.move, name))

    def fsync(self, descriptor: int) -> None:
        self.real["fsync"](descriptor)
        found = os.fstat(descriptor)
        self.flushed[found.st_dev, found.st_ino] = (found.st_size, found.st_mtime_ns)
        self.open_folders = {path for path in self.open_folders if not os.path.samestat(path.stat(), found)}

    def move(self, name: str, source: Any, target: Any) -> None:
        for path in [Path(source), *sorted(Path(source).rglob("*"))]:
            found = path.stat()
            if self.flushed.get((found.st_dev, found.st_ino)) != (found.st_size, found.st_mtime_ns):
                self.too_early.append(path.name)
        self.real[name](source, target)
        self.renamed += 1
        self.open_folders.add(Path(target).parent)


def waited(child: int, seconds: float = 120.0) -> int:
    """Return a child's exit code, negative where a signal ended it; one that hangs is killed, and an error."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"a process hangs for {seconds} s")
        time.sleep(0.002)


def outcome(work: Callable[[], Any], before: Callable[[], Any] | None = None) -> int:
    """Return the exit code of some work in a child."""
    return waited(forked(work, before))


def signalled(
    work: Callable[[], Any], numbers: Iterable[int], seconds: float, is_time: Callable[[], bool] = lambda: True
) -> int:
    """Do some work in a child that gets signals so many seconds after it is time; return its exit code."""
    child = forked(work)
    while not is_time() and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)
    time.sleep(seconds)
    for number in numbers:
        os.kill(child, number)
    return waited(child)


def killed(work: Callable[[], Any], seconds: float, is_time: Callable[[], bool] = lambda: True) -> bool:
    """Do some work in a child, and kill it so many seconds after it is time; return whether it was still at work."""
    return signalled(work, [signal.SIGKILL], seconds, is_time) == -signal.SIGKILL


@dataclass
class Fault:
    """What happens at one call to the file system."""

    name: str
    strike: Callable[[], Any]


def raising(number: int) -> Callable[[], Any]:
    def strike() -> None:
        raise OSError(number, os.strerror(number))

    return strike


FAULTS = (
    Fault("ENOSPC", raising(errno.ENOSPC)),
    Fault("EIO", raising(errno.EIO)),
    Fault("SIGKILL", lambda: os.kill(os.getpid(), signal.SIGKILL)),
)


def striking(at: int, strike: Callable[[], Any]) -> Callable[[], None]:
    """Return what patches `os` in a child, so that the call number `at` that changes the disk is struck."""

    def patch() -> None:
        counter = iter(range(1, 1 << 30))
        for name in CALLS:
            setattr(os, name, struck(getattr(os, name)))

        def count() -> None:
            if next(counter) == at:
                strike()

        struck.count = count  # type: ignore[attr-defined]

    def struck(real: Callable) -> Callable:
        def call(*arguments: Any, **more: Any) -> Any:
            reads_only = real.__name__ == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not reads_only:
                struck.count()  # type: ignore[attr-defined]
            return real(*arguments, **more)

        call.__name__ = real.__name__
        return call

    return patch


def count_calls(work: Callable[[], Any]) -> int:
    """Return how many calls that change the disk some work makes: the number of the last one that can be struck."""
    low, high = 0, 1
    while outcome(work, striking(high, lambda: os._exit(77))) == 77:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if outcome(work, striking(middle, lambda: os._exit(77))) == 77 else (low, middle)
    return low


def no_file_beyond(size: int) -> Callable[[], None]:
    """Return what limits every file of a child to so many bytes: the disk is full there, for any library."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit
