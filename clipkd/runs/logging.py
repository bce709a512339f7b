"""Where a training's curves go: TensorBoard events in the run folder; Weights & Biases where the user asks for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from clipkd.core.disk import room_for
from clipkd.core.errors import MachineError
from clipkd.runs.folder import ending_of

PROJECT = "CLIPKD_WANDB"
"""Environment variable: the Weights & Biases project to report to; unset: none. A variable also reaches the jobs of a
workflow, and is no setting of a run."""


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
            settings: the run's settings, for Weights & Biases.
        """
        self.folder = folder
        if not isinstance(threading.excepthook, RaisedElsewhere):
            threading.excepthook = RaisedElsewhere(threading.excepthook)
        with room_for(folder):
            self.tensorboard = SummaryWriter(folder, purge_step=epoch, filename_suffix=ending_of(run))
        project = os.environ.get(PROJECT)
        self.wandb = wandb_run(project, folder, run, name, settings) if project else None

    def add(self, epoch: int, numbers: dict[str, float]) -> None:
        """Add an epoch's point to each curve."""
        with room_for(self.folder):
            for name, value in numbers.items():
                self.tensorboard.add_scalar(name, value, epoch)
        if self.wandb is not None:
            self.wandb.log(numbers, step=epoch)

    def close(self, is_complete: bool) -> None:
        """Write what is left; say whether the run came to its end."""
        with room_for(self.folder):
            self.tensorboard.flush()  # raises what its thread met, which `close` does not
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish(exit_code=0 if is_complete else 1)


def wandb_run(project: str, folder: Path, run: str, name: str, settings: dict[str, Any]) -> Any:
    """Begin, or go on with, a run at Weights & Biases (WANDB_MODE=offline keeps it in the run folder).

    Raises:
        MachineError: the package is not installed; the service refuses or can't be reached.
    """
    try:
        import wandb
    except ImportError:
        raise MachineError(f"{PROJECT} is set, but wandb is not installed: pip install 'clipkd[wandb]'") from None
    try:
        return wandb.init(
            project=project,
            dir=folder,
            id=run,
            name=name,
            resume="allow",
            reinit="create_new",  # several runs may be trained side by side
            config=settings,
        )
    except wandb.errors.Error as error:
        raise MachineError(
            f"{PROJECT} is set, but Weights & Biases fails ({type(error).__name__}): log in with `wandb login`, set "
            f"WANDB_MODE=offline, or unset {PROJECT}"
        ) from None
