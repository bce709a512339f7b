"""Interruption: a signal only sets a flag; the training is saved at the next step's edge."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from clipkd.core.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def heeded() -> list[signal.Signals]:
    """Return the signals that stop a training; without SIGHUP, a closed terminal's, where `nohup` has it ignored."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def stopping() -> Iterator[None]:
    """Have the signals that stop a training stop the work before it, as Ctrl-C does, which stays as it is."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number), f"stopped by {signal.Signals(number).name} before the training")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in heeded() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interruption:
    """Listens for SIGTERM, SIGINT, SIGUSR1 and SIGHUP while its block lasts; the first one counts."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread listen
            self.before = {number: signal.signal(number, self.note) for number in heeded()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; whoever trains looks at it when a step is done."""
        self.signal = self.signal or signal.Signals(number)

    def error(self, saved: str) -> Interrupted:
        """Return what to raise once everything is saved."""
        assert self.signal is not None
        return Interrupted(self.signal, f"stopped by {self.signal.name}; {saved}")
