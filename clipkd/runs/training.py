"""A training from its opened inputs to its written results, alone or beside others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch

from clipkd.core.errors import ClipkdError, MachineError, first_line, lacks_memory, lost_device
from clipkd.core.fingerprint import fingerprint
from clipkd.core.progress import say
from clipkd.core.typed_json import read_model
from clipkd.data.batches import Batches
from clipkd.runs.checkpointing import resume
from clipkd.runs.folder import RunFolder, environment
from clipkd.runs.interruption import Interruption
from clipkd.runs.job import Job, open_batches, open_teacher_targets
from clipkd.runs.logging import CurveWriter
from clipkd.runs.loop import train_runs
from clipkd.runs.precision import rest
from clipkd.runs.ranks import Ranks
from clipkd.runs.record import METRICS, Metrics
from clipkd.runs.run import Run

Outcome = Metrics | ClipkdError
"""A run's metrics, or why it failed."""


def train(job: Job, folder: RunFolder, ranks: Ranks | None = None) -> Metrics:
    """Train the job's student and write its run folder; return the metrics.

    A run that was cut off continues from its last saved step and ends with the same student. Where several ranks
    train it, the first one writes.

    Raises:
        DataError: an input is damaged or of other settings; the loss is not finite.
        MachineError: the device's memory or the disk does not suffice; another process writes this run.
        Interrupted: SIGTERM, SIGINT, SIGUSR1 or SIGHUP came, and the training is saved.
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
    the others. `interruption`: listens for signals already; None: one is made, and listens during the training.

    Raises:
        Interrupted: SIGTERM, SIGINT, SIGUSR1 or SIGHUP came, and every training is saved.
    """
    ranks = ranks or Ranks()
    outcomes: dict[int, Outcome] = {}
    runs: dict[int, Run] = {}
    batches: Batches | None = None
    with ExitStack() as stack:
        interruption = interruption or stack.enter_context(Interruption())
        for number, (job, folder) in enumerate(pairs):
            try:
                if ranks.is_first and folder.is_writable:  # a complete run is read without writing
                    stack.enter_context(folder.held())
                if metrics := complete_result(job, folder, ranks):
                    outcomes[number] = metrics
                    continue
                source = open_teacher_targets(job)
                batches = batches or open_batches(job, source)  # runs side by side share the images
                runs[number] = Run(job, folder, source, batches, ranks)
            except ClipkdError as error:
                outcomes[number] = error
            except (MemoryError, RuntimeError) as error:
                outcomes[number] = in_words(job, folder, error)
        if runs:
            first = next(iter(runs.values()))
            if first.job.device.type == "cuda":  # of these runs, not of the extraction or the stack before them
                torch.cuda.reset_peak_memory_stats()
            stack.enter_context(rest(first.numbers.precision, first.job.device))
        try:
            for run in runs.values():
                stack.callback(end, run)
                try:
                    begin(run)
                except ClipkdError as error:
                    run.failure = error
            train_runs(list(runs.values()), interruption)
        except (MemoryError, RuntimeError) as error:
            stopped = {number: run for number, run in runs.items() if not (run.result or run.failure)}
            outcomes |= {number: in_words(run.job, run.folder, error) for number, run in stopped.items()}
    for number, run in runs.items():
        if outcome := run.failure or run.result:
            outcomes.setdefault(number, outcome)
    return [outcomes[number] for number in range(len(pairs))]


def complete_result(job: Job, folder: RunFolder, ranks: Ranks) -> Metrics | None:
    """Return the metrics if the folder holds this run's complete result; tidy up what a kill left beside it."""
    (is_complete,) = ranks.maximum(ranks.is_first and folder.finished(job.identity))
    if not is_complete:
        if ranks.is_first:
            folder.refuse_others(job.identity)
            if not folder.is_writable:
                raise MachineError(f"{folder.path} can't be written, and holds no complete result of this run")
        return None
    if ranks.is_first and folder.is_writable:
        folder.sweep(job.identity)
    say(f"{folder.path} holds the complete result of this run: nothing to do")
    return read_model(folder.path / METRICS, Metrics)


def begin(run: Run) -> None:
    """Continue from the saved state, or start; open the curves."""
    is_resumed = resume(run)
    run.sittings.append({"epoch": run.epoch.number, "step": run.epoch.step} | environment(run.job.device))
    if not run.ranks.is_first:
        return
    if not is_resumed:
        run.folder.start(run.job.identity)
    run_id = fingerprint(run.job.identity)
    run.curves = CurveWriter(run.folder.path, run_id, run.cell.folder, run.epoch.number, run.job.settings())


def end(run: Run) -> None:
    """Close what is open."""
    if run.curves is not None:
        run.curves.close(run.result)


def in_words(job: Job, folder: RunFolder, error: MemoryError | RuntimeError) -> MachineError:
    """Return what to tell the user if the GPU failed, or memory ran out; raise any other error."""
    first = lost_device(error) if isinstance(error, RuntimeError) else ""
    if not first:
        return out_of_memory(job, error)
    step = folder.checkpoints(job.identity).last_step()
    saved = f"it was last saved after step {step:,}" if step else "nothing was saved yet"
    return MachineError(
        f"{folder.path}: {job.device} failed ({first}); {saved}: the same command resumes there. If it happens again, "
        "take another GPU: `nvidia-smi -q` and the kernel's log (Xid) say what is wrong with this one"
    )


def out_of_memory(job: Job, error: MemoryError | RuntimeError) -> MachineError:
    """Return what to tell the user if memory ran out; raise any other error."""
    if not lacks_memory(error):
        raise error
    first = first_line(error)
    return MachineError(
        f"out of memory on {job.device} with batch size {job.numbers.batch_size}: take a smaller --batch-size, or "
        f"fewer students at once ({first})"
    )
