"""Students on a CPU: one process per core, each training one student from its beginning to its end.

A fork server imports torch once; every process begins as its copy, without a start of its own. Processes share
the packed images and the embeddings, which are memory maps. None knows of another, so that each student is, to
the bit, what it is alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal as signals
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING

from clipkd.core import progress
from clipkd.core.disk import explained
from clipkd.core.errors import ClipkdError, Interrupted, MachineError, SomeFailed
from clipkd.core.progress import say
from clipkd.runs.interruption import SIGNALS, Interruption

if TYPE_CHECKING:
    from clipkd.runs.assignment import Assignment

STOPPED = {Interrupted(number, "").exit_code: number for number in SIGNALS}
"""Exit code -> the signal that stopped a training."""
SOCKET_BYTES = 103
"""The longest path of a Unix socket that every system takes (macOS: 104 bytes with the closing zero; Linux: 108)."""
AGAIN_SECONDS = 1.0
PREPARATION = "preparation"
"""The task that makes what students read."""
CONTEXT = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Let the fork server begin to import torch, while this process does something else.

    Raises:
        MachineError: TMPDIR is too long for a socket in it.
    """
    longest = SOCKET_BYTES - len("/pymp-xxxxxxxx/listener-xxxxxxxx")
    if len(os.fsencode(tempfile.gettempdir())) > longest:
        raise MachineError(
            f"the folder of temporary files, {tempfile.gettempdir()}, has a path too long for a socket: set TMPDIR to "
            f"one of at most {longest} bytes, for example /tmp"
        )
    CONTEXT.set_forkserver_preload(["clipkd.runs.assignment"])
    resource_tracker.ensure_running()  # deaf by itself; to start it would lift what `deaf` blocks
    with deaf():
        forkserver.ensure_running()


@contextmanager
def deaf() -> Iterator[None]:
    """Start processes that do not hear Ctrl-C from their first moment: a terminal sends it to all; this one answers.

    Blocked and not ignored: what comes meanwhile is heard when the block ends.
    """
    before = signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGINT})
    try:
        yield
    finally:
        signals.pthread_sigmask(signals.SIG_SETMASK, before)


def train_in_processes(assignments: Sequence[Assignment], processes: int, threads: int | None) -> None:
    """Train the assignments' students, each in a process of its own.

    Args:
        assignments: what to train.
        processes: how many at a time.
        threads: threads of each process; None: one.

    Raises:
        SomeFailed: some failed; the others are complete.
        Interrupted: a signal came; every training is saved.
    """
    with Pool() as pool:
        # What several students read is made once, by one process with all cores, before them.
        pool.run([(PREPARATION, prepare, (list(assignments), threads))], 1)
        able = [one for one in assignments if one.name not in pool.failures]
        if PREPARATION not in pool.failures:
            pool.run([(one.name, train_one, (one, threads or 1)) for one in able], processes)
    if pool.signal:
        raise pool.error("run the same command to resume")
    if PREPARATION in pool.failures:
        error = pool.failures[PREPARATION]
        raise as_error(error.exit_code, f"no student was trained, as the preparation failed: {error}")
    if pool.failures:
        raise SomeFailed(pool.failures, len(assignments))


def prepare(assignments: list[Assignment], threads: int | None) -> dict[str, ClipkdError]:
    """Make what the assignments read; return why it could not be made, by name."""
    import torch

    from clipkd.core.linear import chosen_here

    if threads:
        torch.set_num_threads(threads)
    chosen_here()  # a processor that is not known yet is measured by one process, with nothing beside it
    return {one.name: error for one in assignments if (error := one.prepare())}


def train_one(assignment: Assignment, threads: int) -> dict[str, ClipkdError]:
    """Train one student; return why that failed, by name."""
    import torch

    from clipkd.runs.training import train

    torch.set_num_threads(threads)
    progress.is_one_of_several = True
    try:
        train(*assignment.open())
    except ClipkdError as error:
        return {assignment.name: error}
    except OSError as error:
        return {assignment.name: MachineError(explained(error))}
    return {}


Task = tuple[str, Callable[..., dict[str, ClipkdError]], tuple]
"""A name, a function that returns failures by name, and its arguments."""


@dataclass
class Worker:
    """A process at work on a task."""

    name: str
    process: BaseProcess
    answer: Connection

    def failures(self) -> dict[str, ClipkdError]:
        """Return what failed, once the process has answered or ended."""
        try:
            errors: dict[str, tuple[int, str]] = self.answer.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by {signals.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            cure = "a machine with more" if self.name == PREPARATION else "fewer --processes"
            hint = f"; if memory ran out, take {cure}" if code == -signals.SIGKILL else ""
            return {self.name: MachineError(f"its process {how}{hint}")}
        finally:
            self.answer.close()
        self.process.join()
        return {name: as_error(*reason) for name, reason in errors.items()}


def as_error(exit_code: int, message: str) -> ClipkdError:
    """Return an error that another process sent."""
    error = ClipkdError(message)
    error.exit_code = exit_code
    return error


def run_task(function: Callable[..., dict[str, ClipkdError]], arguments: tuple, answer: Connection) -> None:
    """Do a task in a process of its own; send what failed."""
    threading.Thread(target=stop_with_parent, daemon=True).start()
    signals.signal(signals.SIGINT, signals.default_int_handler)
    try:
        signals.pthread_sigmask(signals.SIG_UNBLOCK, {signals.SIGINT})  # its fork server was started deaf
        failures = function(*arguments)
        signals.signal(signals.SIGINT, signals.SIG_IGN)  # it may come twice, and all is done
    except KeyboardInterrupt:  # outside a training, which listens itself
        failures = {multiprocessing.current_process().name: Interrupted(signals.SIGINT, "stopped by SIGINT")}
    with suppress(BrokenPipeError):  # where the parent is gone nobody listens
        answer.send({name: (error.exit_code, str(error)) for name, error in failures.items()})


def stop_with_parent() -> None:
    """Wait for the parent's end, then stop this process as a signal would: its training is saved."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signals.SIGTERM)


class Pool(Interruption):
    """Does tasks in processes of their own; hands every signal on to them."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[Worker] = []
        self.failures: dict[str, ClipkdError] = {}

    def __enter__(self) -> Pool:
        start_server()
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for worker in self.workers:  # there are some only where an error of our own came between
            worker.process.terminate()

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Send a signal on to who is at work; nothing new is begun."""
        super().note(number, frame)
        for worker in self.workers:
            if worker.process.is_alive():
                os.kill(worker.process.pid or 0, number)

    def run(self, tasks: Sequence[Task], at_once: int) -> None:
        """Do tasks, so many at once, and note what failed."""
        waiting = list(tasks)
        while self.workers or (waiting and not self.signal):
            while waiting and len(self.workers) < at_once and not self.signal:
                self.start(*waiting.pop(0))
            ready = wait([worker.answer for worker in self.workers], timeout=AGAIN_SECONDS)
            if not ready and self.signal == signals.SIGINT:
                # Processes begin deaf to it (`deaf`): one that was being forked when it came has not heard it.
                self.note(signals.SIGINT)
            for worker in [worker for worker in self.workers if worker.answer in ready]:
                self.workers.remove(worker)
                failures = worker.failures()
                self.failures |= failures
                for name, error in failures.items():
                    say(f"{name}: error: {error}")
                    # A signal that came to one alone, as `clipkd resume` sends it to who trains, is meant for all.
                    self.signal = self.signal or STOPPED.get(error.exit_code)

    def start(self, name: str, function: Callable, arguments: tuple) -> None:
        """Begin a task."""
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=run_task, args=(function, arguments, theirs), name=name)
        process.start()
        theirs.close()
        self.workers.append(Worker(name, process, ours))
        if self.signal:  # it came while the process began, and did not reach it
            self.note(self.signal)
