"""The training loop, one for every method."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch

from clipkd.core.errors import ClipkdError, MachineError
from clipkd.core.progress import say
from clipkd.core.typed_json import read_model
from clipkd.data.batches import Batches
from clipkd.runs.folder import RunFolder
from clipkd.runs.group import advance
from clipkd.runs.interruption import Interruption
from clipkd.runs.job import Job, open_batches, open_signal
from clipkd.runs.ranks import Ranks
from clipkd.runs.record import METRICS, Metrics
from clipkd.runs.run import Run

Outcome = Metrics | ClipkdError
"""A run's metrics, or why it failed."""


def train(job: Job, folder: RunFolder, ranks: Ranks | None = None) -> Metrics:
    """Train the job's student and write its run folder; return the metrics.

    A run that was cut off goes on from its last saved step and ends with the same student. Where several ranks
    train it, the first one writes.

    Raises:
        DataError: an input is damaged or stands for something else; the loss is not finite.
        MachineError: the device's memory or the disk does not suffice; another process writes this run.
        Interrupted: SIGTERM, SIGINT or SIGUSR1 came, and the training is saved.
    """
    (outcome,) = train_together([(job, folder)], ranks)
    if isinstance(outcome, ClipkdError):
        raise outcome
    return outcome


def train_together(
    pairs: Sequence[tuple[Job, RunFolder]], ranks: Ranks | None = None, interruption: Interruption | None = None
) -> list[Outcome]:
    """Train several jobs' students side by side; return each one's metrics, or why it failed.

    All have the dataset, recipe, student's size and hyperparameters of the first. One that fails does not stop
    the others. `interruption`: who listens for signals already; None: this does, while it trains.

    Raises:
        Interrupted: SIGTERM, SIGINT or SIGUSR1 came, and every training is saved.
    """
    ranks = ranks or Ranks()
    outcomes: dict[int, Outcome] = {}
    runs: dict[int, Run] = {}
    batches: Batches | None = None
    with ExitStack() as stack:
        interruption = interruption or stack.enter_context(Interruption())
        for number, (job, folder) in enumerate(pairs):
            try:
                if ranks.is_first:
                    stack.enter_context(folder.held())
                (is_finished,) = ranks.most(ranks.is_first and folder.finished(job.identity))
                if is_finished:
                    if ranks.is_first:
                        folder.sweep(job.identity)
                    say(f"{folder.path} holds the complete result of this run: nothing to do")
                    outcomes[number] = read_model(folder.path / METRICS, Metrics)
                    continue
                signal = open_signal(job)
                batches = batches or open_batches(job, signal)  # whoever trains side by side sees the same images
                runs[number] = Run(job, folder, signal, batches, interruption, ranks)
            except ClipkdError as error:
                outcomes[number] = error
            except RuntimeError as error:
                outcomes[number] = out_of_memory(job, error)
        try:
            for run in runs.values():
                stack.callback(run.end)
                run.begin()
            advance(list(runs.values()), interruption)
        except RuntimeError as error:
            lack = out_of_memory(pairs[0][0], error)
            outcomes |= {number: lack for number, run in runs.items() if not run.result}
    for number, run in runs.items():
        outcome = run.failure or run.result
        assert outcome is not None
        outcomes.setdefault(number, outcome)
    return [outcomes[number] for number in range(len(pairs))]


def out_of_memory(job: Job, error: RuntimeError) -> MachineError:
    """Return what to tell the user where memory ran out; raise any other error."""
    if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
        raise error
    first = str(error).splitlines()[0]
    return MachineError(
        f"out of memory on {job.device} with batch size {job.numbers.batch_size}: take a smaller --batch-size, or "
        f"fewer students at once ({first})"
    )
