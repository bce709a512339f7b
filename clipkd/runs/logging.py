"""Where a training's curves go: TensorBoard events in the run folder, and the services that the user asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from clipkd.core.disk import room_for
from clipkd.runs.folder import ending_of
from clipkd.runs.record import COST, HISTORY, METRICS, Metrics
from clipkd.runs.trackers import Trackers


class RaisedElsewhere:
    """What Python calls for an error that ends a thread: no traceback where the thread keeps the error.

    TensorBoard's threads do: the next point that is added raises it.
    """

    def __init__(self, usual: Callable[[threading.ExceptHookArgs], object]) -> None:
        self.usual = usual

    def __call__(self, ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is None or getattr(ended.thread, "exception", None) is not ended.exc_value:
            self.usual(ended)


class CurveWriter:
    """The curves of one run, one point an epoch."""

    def __init__(self, folder: Path, run: str, name: str, epoch: int, settings: dict[str, Any]) -> None:
        """Open the curves.

        Args:
            folder: the run folder; whatever is written lies in it.
            run: the run's fingerprint: a resumed training continues its curves.
            name: what the run is called.
            epoch: the first epoch that is to come; points from there on are overwritten.
            settings: the run's settings, for the services.
        """
        self.folder = folder
        if not isinstance(threading.excepthook, RaisedElsewhere):
            threading.excepthook = RaisedElsewhere(threading.excepthook)
        with room_for(folder):
            self.tensorboard = SummaryWriter(folder, purge_step=epoch, filename_suffix=ending_of(run))
        self.trackers = Trackers(folder, run, name, settings)

    def add(self, epoch: int, numbers: dict[str, float]) -> None:
        """Add an epoch's point to each curve."""
        with room_for(self.folder):
            for name, value in numbers.items():
                self.tensorboard.add_scalar(name, value, epoch)
        self.trackers.add(epoch, numbers)

    def close(self, result: Metrics | None) -> None:
        """Write what is left, and what the run reached; None: it did not come to its end."""
        score = result.selected.test if result else None
        final = {"Test acc.": score.top1, "Test top-5 acc.": score.top5} if score else {}
        self.trackers.end(bool(result), final, [self.folder / name for name in (HISTORY, METRICS, COST) if result])
        with room_for(self.folder):
            self.tensorboard.flush()  # raises what its thread met, which `close` does not
            self.tensorboard.close()
