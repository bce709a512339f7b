"""The device's part of a step as one CUDA graph, for batches of the full size.

The host launches one graph a step instead of a thousand kernels. A graph reads and writes fixed addresses: the batch is
copied to where it was captured from; learning rate, step count, gradients and totals are updated in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clipkd.runs.objective import Targets, several

VARIABLE = "CLIPKD_CUDA_GRAPHS"
"""Environment variable: `never` launches every kernel of a step by itself."""
WARM_UP = 3
"""Ordinary steps before the capture: libraries must be loaded and gradients allocated by then."""


class StepInputs(NamedTuple):
    """What one student learns from in a step."""

    inputs: Tensor
    """Normalised images [B, 3, S, S]."""
    labels: Tensor
    """Class numbers [B], or shares of the classes [B, C]."""
    teacher_targets: Targets

    def tensors(self) -> list[Tensor]:
        """Return the tensors in a fixed order."""
        return [self.inputs, self.labels, *several(self.teacher_targets)]

    def clone(self) -> StepInputs:
        """Return a copy of every tensor."""
        targets = self.teacher_targets
        if isinstance(targets, tuple):
            return StepInputs(self.inputs.clone(), self.labels.clone(), tuple(one.clone() for one in targets))
        return StepInputs(self.inputs.clone(), self.labels.clone(), None if targets is None else targets.clone())


Work = Callable[[Sequence[StepInputs]], None]


class GraphedStep:
    """Does the same work as the function it wraps, by replaying a graph of it."""

    def __init__(
        self,
        work: Work,
        size: int,
        capture: Callable[[Callable[[], None]], Callable[[], None]],
        warm_up: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        """Wrap a function.

        Args:
            work: the device's part of a step.
            size: images in a full batch. Other sizes run without a graph.
            capture: turns the work on fixed tensors into a function that repeats it; must not execute it.
            warm_up: executes the work, before the capture.
        """
        self.work, self.size, self.capture, self.warm_up = work, size, capture, warm_up
        self.static: list[StepInputs] = []
        """The tensors that the graph reads."""
        self.replay: Callable[[], None] | None = None
        self.warmed = 0

    def __call__(self, step_inputs: Sequence[StepInputs]) -> None:
        if len(step_inputs[0].labels) != self.size:
            self.work(step_inputs)
            return
        if not self.static:
            self.static = [one.clone() for one in step_inputs]
        for static, one in zip(self.static, step_inputs, strict=True):
            for place, tensor in zip(static.tensors(), one.tensors(), strict=True):
                place.copy_(tensor)
        if self.replay is None and self.warmed < WARM_UP:
            self.warmed += 1
            self.warm_up(lambda: self.work(self.static))
            return
        if self.replay is None:
            self.replay = self.capture(lambda: self.work(self.static))
        self.replay()


def is_allowed() -> bool:
    """Return whether the user lets steps be captured."""
    return os.environ.get(VARIABLE) != "never"


class SideStream:
    """A stream of its own for the steps before the capture, as torch requires, and for the capture.

    One for both: what libraries keep by stream, as their workspaces, is then there when the capture begins.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """`generators`: they advance from one replay to the next."""
        self.generators = generators
        self.stream = torch.cuda.Stream()

    def run(self, work: Callable[[], None]) -> None:
        """Do the work after what the current stream has to do, and before what it is given next."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that replays the work, which this does not do."""
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        # Threads that prefetch images allocate pinned memory during the capture; only this thread must not.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            work()
        return graph.replay
