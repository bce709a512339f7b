"""One step of a run, or of several side by side: forward, losses, backward, a look at the numbers, update.

On a GPU the whole step is one CUDA graph, for batches of the full size: the host says "again" once a step
instead of launching a thousand kernels. What such a graph reads lies at fixed places: the batch, the learning
rate, the count of steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from clipkd.data.batches import Batch
from clipkd.plugins.students._vit import Student
from clipkd.runs.objective import objective
from clipkd.runs.precision import autocast
from clipkd.runs.stack import Stack, shape

if TYPE_CHECKING:
    from clipkd.runs.run import Run

GRAPHS = "CLIPKD_CUDA_GRAPHS"
"""Environment variable: `never` takes each step kernel by kernel."""
WARM_UP = 3
"""Steps before a graph is captured: torch wants libraries and gradients to be there."""

Lesson = tuple[Tensor, Tensor, Tensor | tuple[Tensor, ...] | None]
"""What one student learns from in a step: its inputs [B, 3, S, S], labels [B] and the signal of its teachers."""


class Step:
    """Takes the steps of a group of runs."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        first = runs[0]
        self.device, self.precision = first.job.device, first.numbers.precision
        students = [run.student for run in runs]
        self.stack = Stack(cast(list[Student], students)) if len(runs) > 1 else None
        self.again: Replayed | None = None
        is_graph = self.device.type == "cuda" and first.ranks.count == 1 and shape(first.student) is not None
        if is_graph and os.environ.get(GRAPHS) != "never":
            noise = [run.noise for run in runs]
            self.again = Replayed(self.learn, first.numbers.batch_size, lambda work: captured(work, noise))

    def __call__(self, batches: Sequence[Batch]) -> None:
        """Take a step on one batch for each run."""
        lessons: list[Lesson] = []
        passes = []
        for run, batch in zip(self.runs, batches, strict=True):
            before = run.teacher_passes()
            run.before_step()
            lessons.append((batch.inputs, batch.labels, run.told(batch)))
            passes.append(run.teacher_passes() - before)
        (self.again or self.learn)(lessons)
        for run, batch, passed in zip(self.runs, batches, passes, strict=True):
            run.after_step(len(batch.labels), passed)

    def learn(self, lessons: Sequence[Lesson]) -> None:
        """Do all that the device does in a step."""
        inputs = [lesson[0] for lesson in lessons]
        with autocast(self.precision, self.device):
            outputs = self.stack(inputs) if self.stack else [self.runs[0].outputs(inputs[0])]
        parts = [
            objective(run.cell.method, run.student, out, labels, signal, run.recipe)
            for run, out, (_, labels, signal) in zip(self.runs, outputs, lessons, strict=True)
        ]
        for run in self.runs:
            run.optimiser.zero_grad()
        if self.stack:
            self.stack.zero_grad()
        sum(losses["loss"] for losses in parts).backward()
        if self.stack:
            self.stack.share_gradients()
        for run, losses, (_, labels, _) in zip(self.runs, parts, lessons, strict=True):
            run.update(losses, len(labels))


class Replayed:
    """Work on lessons of one size, which are copied to fixed places first; other sizes are done as they come."""

    def __init__(
        self,
        work: Callable[[Sequence[Lesson]], None],
        size: int,
        capture: Callable[[Callable[[], None]], Callable[[], None]],
    ) -> None:
        """Name the work.

        Args:
            work: what is done.
            size: images of a full batch.
            capture: turns the work on the fixed places into something that does it again, without doing it.
        """
        self.work, self.size, self.capture = work, size, capture
        self.places: list[Lesson] = []
        self.replay: Callable[[], None] | None = None
        self.warmed = 0

    def __call__(self, lessons: Sequence[Lesson]) -> None:
        """Do the work on these lessons."""
        if len(lessons[0][1]) != self.size:
            self.work(lessons)
            return
        if not self.places:
            self.places = [copied(lesson) for lesson in lessons]
        for place, tensor in zip(tensors(self.places), tensors(lessons), strict=True):
            place.copy_(tensor)
        if self.replay is None and self.warmed < WARM_UP:
            self.warmed += 1
            aside(lambda: self.work(self.places))
            return
        if self.replay is None:
            self.replay = self.capture(lambda: self.work(self.places))
        self.replay()


def tensors(nested: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples and lists; None is none."""
    if isinstance(nested, Tensor):
        yield nested
    elif nested is not None:
        for child in nested:
            yield from tensors(child)


def copied(nested: Any) -> Any:
    """Return nested tuples with a copy of each tensor."""
    if isinstance(nested, tuple):
        return tuple(copied(child) for child in nested)
    return None if nested is None else nested.clone()


def aside(work: Callable[[], None]) -> None:
    """Do work on a stream of its own, as must be before a capture; on a CPU just do it."""
    if not torch.cuda.is_available():
        work()
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def captured(work: Callable[[], None], noise: Sequence[torch.Generator]) -> Callable[[], None]:
    """Return a CUDA graph's replay of the work; the generators go on drawing from one replay to the next."""
    graph = torch.cuda.CUDAGraph()
    for generator in noise:
        graph.register_generator_state(generator)
    # Threads that read images ahead go on allocating pinned memory meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay
