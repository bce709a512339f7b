"""The state of one training: student, optimiser, random generators, and how far it has come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clipkd.core.errors import ClipkdError, InputError
from clipkd.core.fingerprint import digest
from clipkd.core.progress import say
from clipkd.data.batches import Batch, Batches, Turn
from clipkd.plugins.methods import Losses
from clipkd.plugins.students._heads import Heads
from clipkd.plugins.students._vit import build_student
from clipkd.runs.epoch_size import steps_of
from clipkd.runs.finite_guard import FiniteGuard
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import Job
from clipkd.runs.logging import CurveWriter
from clipkd.runs.optimiser import adamw, learning_rate
from clipkd.runs.ranks import Ranks
from clipkd.runs.record import EpochRecord, Metrics, Score
from clipkd.runs.teacher_targets import TeacherTargets


@dataclass
class Epoch:
    """An epoch and how far it has come. Its fields are saved under their names."""

    number: int
    """From 1."""
    order: Tensor
    """The generator's state before the epoch: it fixes the order, flips and crops of all its batches."""
    step: int = 0
    """Steps taken."""
    count: int = 0
    """Images seen."""
    totals: dict[str, Tensor] = field(default_factory=dict)
    """Sum over images of each part of the loss; on the device, as reading them would make every step wait."""
    rate: float = 0.0
    """The last step's learning rate."""
    seconds: float = 0.0
    passes: int = 0
    """Images that went through a teacher in the process."""


def add_losses(epochs: Sequence[Epoch], losses: Sequence[Losses], count: int) -> None:
    """Add a step's losses, each a mean over `count` images, to the totals of epochs that are trained together."""
    totals, values = [], []
    for epoch, parts in zip(epochs, losses, strict=True):
        for part, value in parts.items():
            totals.append(epoch.totals.setdefault(part, torch.zeros((), device=value.device)))
            values.append(value.detach())
    torch._foreach_add_(totals, torch._foreach_mul(values, count))  # in place, where a CUDA graph adds to it


class Run:
    """The state of one training."""

    def __init__(
        self, job: Job, folder: RunFolder, source: TeacherTargets, batches: Batches, ranks: Ranks | None = None
    ) -> None:
        """Build the student and all that is drawn from the run's seed.

        Args:
            job: what is trained.
            folder: where the run writes.
            source: the targets that the teacher sets.
            batches: the training and evaluation images; runs in a group share them.
            ranks: the processes that train the student together; None: only this one.

        Raises:
            InputError: the batch is larger than the dataset, the student or its targets can't be shared by several
                ranks, a batch has fewer images than there are ranks, or the student has batch normalisation and the
                last batch of an epoch would be one image.
        """
        self.job, self.folder, self.source, self.batches, self.ranks = job, folder, source, batches, ranks or Ranks()
        self.cell, self.numbers, self.recipe = job.cell, job.numbers, job.recipe
        self.checkpoints = folder.checkpoints(job.identity)
        torch.manual_seed(self.cell.seed)
        self.student: Heads = build_student(
            self.cell.student_spec, len(job.classes), source.width, self.recipe, self.cell.method.learns_bias
        ).to(job.device)
        if self.ranks.count > 1 and self.student.has_batch_norm:
            raise InputError(
                f"student '{self.cell.student}' keeps batch statistics, which differ between processes: train it in one"
            )
        if self.ranks.count > 1 and source.draws:
            raise InputError(
                f"the prototypes of {self.cell.teacher} are drawn in each step, and would differ between processes: "
                "train in one, or take another --prototype-form"
            )
        self.optimiser = adamw(self.student, self.numbers, self.recipe)
        self.generator = torch.Generator().manual_seed(self.cell.seed)
        # Dropout and sampled targets draw from the run's own generator: the same beside other runs as alone.
        seed = int(digest([self.cell.seed, self.ranks.rank])[:15], 16)
        self.noise = torch.Generator(job.device).manual_seed(seed)
        torch.manual_seed(seed)  # for students that draw from the process's generator
        self.student.generators = [self.noise]
        self.source.use_generator(self.noise)
        self.student.train()
        self.guard = FiniteGuard(self.optimiser, job.device)
        self.steps_per_epoch = steps_of(
            job.images.count,
            self.numbers.batch_size,
            self.cell,
            lambda: self.student.has_batch_norm,
            self.ranks.count,
        )
        self.epoch = Epoch(1, self.generator.get_state())
        self.history: list[EpochRecord] = []
        self.seconds: list[float] = []
        self.passes = 0
        self.best: tuple[int, Score | None] | None = None
        """Epoch and score of the selected student."""
        self.selected_student: dict[str, Tensor] = {}
        self.failure: ClipkdError | None = None
        self.result: Metrics | None = None
        self.largest_group = 1
        """Most students that were trained together with this one, itself included."""
        self.curves: CurveWriter | None = None
        self.sittings: list[dict[str, Any]] = []
        """With what it was trained: one for each time that it was begun or resumed."""
        self.saved_at, self.save_seconds = time.monotonic(), 0.0

    @property
    def is_unfinished(self) -> bool:
        """Whether epochs are left, and the run has not failed."""
        return self.epoch.number <= self.numbers.epochs and self.failure is None

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, from 1, and the steps taken in it."""
        return self.epoch.number, self.epoch.step

    @property
    def steps_taken(self) -> int:
        """Steps since the beginning of the training."""
        return (self.epoch.number - 1) * self.steps_per_epoch + self.epoch.step

    def rest_of_epoch(self) -> Iterator[Batch]:
        """Yield the batches of the epoch that are left."""
        self.guard.reset(self.epoch.step)
        self.generator.set_state(self.epoch.order)
        size, drop_last = self.numbers.batch_size, self.recipe.drop_last
        turn = Turn(self.cell.seed, self.epoch.number)
        # Its own images: those of runs side by side may differ in whose labels are seen.
        return self.batches.epoch(size, drop_last, self.generator, self.epoch.step, turn, self.job.images)

    def set_learning_rate(self) -> None:
        """Set the next step's learning rate."""
        total = self.steps_per_epoch * self.numbers.epochs
        self.epoch.rate = learning_rate(self.steps_taken, total, self.numbers, self.recipe)
        self.optimiser.rate.fill_(self.epoch.rate)  # without waiting for the device

    def teacher_targets(self, batch: Batch) -> Tensor | tuple[Tensor, ...] | None:
        """Return the teacher's targets for the whole batch. A live teacher embeds this rank's part of it."""
        teacher = self.source.teacher
        if teacher is None:
            return self.source(batch)
        before = teacher.forward_passes
        if self.ranks.count == 1:
            targets = self.source(batch)
        else:
            part = self.source(batch.part(self.ranks.shard(len(batch.labels))))
            assert isinstance(part, Tensor)
            targets = self.ranks.gather(part, len(batch.labels))
        self.epoch.passes += teacher.forward_passes - before
        return targets

    def say(self, message: str) -> None:
        """Print it once, whatever the number of ranks."""
        if self.ranks.is_first:
            say(message)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        device = self.job.device
        return {
            # Copies: of a view of a stack's tensors, the whole stack's would be written.
            "student": {name: tensor.clone() for name, tensor in self.student.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "torch": self.ranks.gather_states(torch.get_rng_state()),
            "cuda": self.ranks.gather_states(torch.cuda.get_rng_state(device)) if device.type == "cuda" else [],
            "noise": self.ranks.gather_states(self.noise.get_state()),
            "epoch": vars(self.epoch) | {"passes": round(self.ranks.sum([self.epoch.passes])[0])},
            "history": [epoch.line() for epoch in self.history],
            "seconds": self.seconds,
            "passes": self.passes,
            "signal": self.job.signal(),
            "sittings": self.sittings,
            "largest_group": self.largest_group,
            "selected": selected(self.best),
            "selected_student": self.selected_student,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch = Epoch(**state["epoch"])
        self.epoch.passes *= self.ranks.is_first  # those of all ranks
        self.epoch.totals = {part: total.to(self.job.device) for part, total in self.epoch.totals.items()}
        self.history = [EpochRecord.of(line) for line in state["history"]]
        self.seconds, self.passes = state["seconds"], state["passes"]
        self.sittings = list(state.get("sittings", []))
        self.largest_group = state.get("largest_group", 1)  # absent in checkpoints of older versions
        if best := state["selected"]:
            self.best = best["epoch"], Score(**best["score"]) if best["score"] else None
        self.selected_student = state["selected_student"]
        self.load_generators(state)

    def load_generators(self, state: dict[str, Any]) -> None:
        """Continue to draw where the saved state ended; on another kind of device, whose generators differ, anew."""
        torch.set_rng_state(state["torch"][self.ranks.rank])
        noise, cuda = state["noise"][self.ranks.rank], state.get("cuda")
        if noise.shape == self.noise.get_state().shape:
            self.noise.set_state(noise)
            if cuda:
                torch.cuda.set_rng_state(cuda[self.ranks.rank], self.job.device)
            return
        seed = int(digest([self.cell.seed, self.ranks.rank, self.steps_taken])[:15], 16)
        self.noise.manual_seed(seed)
        torch.manual_seed(seed)
        self.say(f"{self.cell.folder}: saved on another kind of device: dropout draws other numbers from here on")


def selected(best: tuple[int, Score | None] | None) -> dict[str, Any]:
    """Return the selected epoch and its score as they are saved; nothing before there is one."""
    return {"epoch": best[0], "score": best[1].model_dump() if best[1] else None} if best else {}
