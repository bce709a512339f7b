"""When a run is saved, and how it is resumed."""

from __future__ import annotations

import signal
import time
from typing import Any

from clipkd.core.errors import DataError
from clipkd.runs.failure import has_sound_inputs, is_finite
from clipkd.runs.interruption import Interruption
from clipkd.runs.run import Run

SECONDS_BETWEEN_SAVES = 60.0
SHARE_FOR_SAVES = 0.02
"""Of the training time, at most: where a save takes long, saves are rarer."""


def is_save_due(run: Run, interruption: Interruption) -> bool:
    """Return whether a signal came to any rank, or the last save is long enough ago; all ranks agree."""
    longest = max(SECONDS_BETWEEN_SAVES, run.save_seconds / SHARE_FOR_SAVES)
    is_time = run.ranks.is_first and time.monotonic() - run.saved_at > longest
    number, due = run.ranks.maximum(int(interruption.signal or 0), is_time)
    if number:
        interruption.signal = signal.Signals(number)
    return bool(number or due)


def save(run: Run) -> None:
    """Save the run between two steps, unless it has failed."""
    if not is_finite(run) or not has_sound_inputs(run):
        return
    start = time.monotonic()
    state = run.state_dict()
    if run.ranks.is_first:
        run.checkpoints.save(run.steps_taken, state)
    run.ranks.wait()
    run.saved_at = time.monotonic()
    run.save_seconds = run.saved_at - start


def resume(run: Run) -> bool:
    """Continue from the newest saved state of this very run; return whether there is one.

    Raises:
        DataError: all saved states are damaged, or the ranks found different ones; the teacher's part is not the one
            that the run began with.
    """
    state = run.checkpoints.newest()
    if state is not None:
        refuse_other_signal(run, state)
        run.load_state_dict(state)
        run.say(
            f"{run.cell.folder}: resuming in epoch {run.epoch.number}, after step {run.epoch.step} of "
            f"{run.steps_per_epoch}"
        )
    last, negative_first = run.ranks.maximum(run.steps_taken, -run.steps_taken)
    if last != -negative_first:
        raise DataError(
            f"the ranks would resume from different steps ({-negative_first} to {last}): not all of them can read the "
            f"newest state in {run.checkpoints.folder}; run the same command again"
        )
    return state is not None


def refuse_other_signal(run: Run, state: dict[str, Any]) -> None:
    """Raise DataError where a saved state learnt from other bytes of the teacher than are there now."""
    now = run.job.signal()
    if state.get("signal", now) != now:  # older states don't say
        kinds = ", ".join(dict.fromkeys(one["kind"] for one in now))
        raise DataError(
            f"{run.cell.folder}: its {kinds} were made again since this run was saved, with other bytes; restore them, "
            f"or delete {run.checkpoints.folder} to train it from the beginning"
        )
