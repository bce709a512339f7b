"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0
is_one_of_several = False
"""True in a process whose lines stand among those of others: a line then says what it is about."""


class Voice:
    """Standard error, which may go away: work goes on without a voice where its terminal or its reader is gone."""

    def write(self, text: str) -> None:
        """Write, or have everything from now on written to nowhere."""
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:  # EIO: the terminal was closed; EPIPE: nobody reads
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def flush(self) -> None:
        """Do nothing: each piece is written at once."""

    def isatty(self) -> bool:
        return sys.stderr.isatty()


VOICE = Voice()


def say(message: str) -> None:
    """Print one line about what is happening, to standard error, at once."""
    VOICE.write(f"{message}\n")


ONE = {"batches": "batch", "epochs": "epoch", "images": "image", "artefacts": "artefact"}
"""Of what progress counts, where it is one."""


def progress(items: Iterable[Item], total: int, what: str, unit: str = "batches") -> Iterator[Item]:
    """Yield the items, showing how far we are."""
    if sys.stderr.isatty():
        from tqdm import tqdm  # reads its own metadata: 0.06 s of each job, whose standard error is a log

        yield from tqdm(items, total=total, desc=what, unit=unit, file=VOICE)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and count < total:
            last = now
            remaining = (now - start) / count * (total - count)
            say(f"{what}: {count}/{total} {unit}, about {remaining:.0f} s left")
    say(f"{what}: done, {total} {ONE.get(unit, unit) if total == 1 else unit}, {time.monotonic() - start:.1f} s")
