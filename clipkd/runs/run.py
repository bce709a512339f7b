"""The state of one training: where it stands, what a step does to it, how it is saved and finished."""

from __future__ import annotations

import itertools
import math
import signal as signals
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clipkd.core import progress
from clipkd.core.errors import ClipkdError, DataError, InputError
from clipkd.core.fingerprint import digest, fingerprint
from clipkd.core.progress import say
from clipkd.data.batches import Batch, Batches
from clipkd.plugins.methods import Losses
from clipkd.plugins.students._heads import Heads, Outputs
from clipkd.plugins.students._vit import build_student
from clipkd.runs.evaluation import evaluate
from clipkd.runs.finite import Guard
from clipkd.runs.folder import FAILED, RunFolder
from clipkd.runs.interruption import Interruption
from clipkd.runs.job import Job
from clipkd.runs.logging import Board
from clipkd.runs.nearest import nearest_prototype
from clipkd.runs.optimiser import adamw, learning_rate, set_rate, settle
from clipkd.runs.outcome import cost, metrics
from clipkd.runs.ranks import Ranks
from clipkd.runs.record import Accuracy, Chosen, EpochRecord, Metrics, RunRecord, Score, Selected
from clipkd.runs.signals import Signal

SECONDS_BETWEEN_SAVES = 60.0
SHARE_FOR_SAVES = 0.02
"""Of the training time, at most: where a save takes long, saves are rarer."""
EVALUATION_BATCH = 500


@dataclass
class Epoch:
    """An epoch and how far it has come."""

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


class Run:
    """The state of one training."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        signal: Signal,
        batches: Batches,
        interruption: Interruption | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.job, self.folder, self.signal, self.batches = job, folder, signal, batches
        self.interruption, self.ranks = interruption or Interruption(), ranks or Ranks()
        self.cell, self.numbers, self.recipe = job.cell, job.numbers, job.cell.recipe_spec
        self.fingerprint = fingerprint(job.identity)
        self.checkpoints = folder.checkpoints(job.identity)
        torch.manual_seed(self.cell.seed)
        self.student: Heads = build_student(
            self.cell.student_spec, len(job.dataset.classes), signal.width, self.recipe
        ).to(job.device)
        if self.ranks.count > 1 and self.student.has_batch_norm:
            raise InputError(
                f"student '{self.cell.student}' keeps batch statistics, which differ between processes: train it in one"
            )
        self.optimiser = adamw(self.student, self.numbers, self.recipe)
        self.generator = torch.Generator().manual_seed(self.cell.seed)
        # Dropout, and what a signal draws: the run's own, so that it is the same beside other runs as alone.
        noise = int(digest([self.cell.seed, self.ranks.rank])[:15], 16)
        self.noise = torch.Generator(job.device).manual_seed(noise)
        torch.manual_seed(noise)  # for students that draw from the process's generator
        self.student.generators = [self.noise]
        self.signal.draw_by(self.noise)
        self.student.train()
        self.steps_per_epoch = self.count_steps()
        self.epoch = Epoch(1, self.generator.get_state())
        self.guard = Guard(self.optimiser, job.device)
        self.companions = 1
        self.board: Board | None = None
        self.failure: ClipkdError | None = None
        self.result: Metrics | None = None
        self.history: list[EpochRecord] = []
        self.seconds: list[float] = []
        self.passes = 0
        self.best: tuple[int, Score] | None = None
        """Epoch and score of the selected student."""
        self.selected_student: dict[str, Tensor] = {}
        self.saved, self.seconds_of_save = time.monotonic(), 0.0

    def count_steps(self) -> int:
        """Return the steps of an epoch; refuse a batch that is larger than the dataset."""
        size = self.numbers.batch_size
        if self.recipe.drop_last:
            if self.batches.count < size:
                raise InputError(f"batch size {size} is larger than the {self.batches.count} training images")
            return self.batches.count // size
        return math.ceil(self.batches.count / size)

    def begin(self) -> None:
        """Go on from the saved state, or begin."""
        is_resumed = self.resume()
        self.check_ranks()
        if self.ranks.is_first:
            if not is_resumed:
                self.folder.start(self.job.identity)
            self.board = Board(
                self.folder.path, self.fingerprint, self.cell.folder, self.epoch.number, self.job.settings()
            )

    def check_ranks(self) -> None:
        """Raise DataError where ranks would go on from different steps."""
        step = (self.epoch.number - 1) * self.steps_per_epoch + self.epoch.step
        last, negative_first = self.ranks.most(step, -step)
        if last != -negative_first:
            raise DataError(
                f"ranks would go on from different steps ({-negative_first} to {last}): not all of them can read the "
                f"newest state in {self.checkpoints.folder}; give the same command again"
            )

    def end(self) -> None:
        """Close what is open."""
        if self.board is not None:
            self.board.close(is_complete=bool(self.result))

    @property
    def is_going_on(self) -> bool:
        """Whether epochs are left, and the run has not failed."""
        return self.epoch.number <= self.numbers.epochs and self.failure is None

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, from 1, and the steps taken in it."""
        return self.epoch.number, self.epoch.step

    def rest_of_epoch(self) -> Iterator[Batch]:
        """Yield the batches of the epoch that are left."""
        self.guard.reset(self.epoch.step)
        self.generator.set_state(self.epoch.order)
        numbers = self.numbers
        return self.batches.epoch(numbers.batch_size, self.recipe.drop_last, self.generator, start=self.epoch.step)

    def before_step(self) -> None:
        """Set the next step's learning rate."""
        total = self.steps_per_epoch * self.numbers.epochs
        step = (self.epoch.number - 1) * self.steps_per_epoch + self.epoch.step
        self.epoch.rate = learning_rate(step, total, self.numbers, self.recipe)
        set_rate(self.optimiser, self.epoch.rate)

    def update(self, parts: Losses, count: int) -> None:
        """Take the optimiser's step for gradients that are there; keep the losses of `count` images.

        A part of what a GPU replays: nothing here may wait for it, or leave numbers at another place.
        """
        self.ranks.average(self.student.parameters())
        self.guard.look(parts["loss"], self.student.parameters())
        self.optimiser.step()
        for part, value in parts.items():
            total = self.epoch.totals.setdefault(part, torch.zeros((), device=value.device))
            total.add_(value.detach() * count)

    def after_step(self, count: int, passes: int) -> None:
        """Note that a step on `count` images was taken; `passes` of them went through a teacher."""
        self.epoch.count += count
        self.epoch.step += 1
        self.epoch.passes += passes

    def outputs(self, inputs: Tensor) -> Outputs:
        """Return what the student makes of the whole batch [B, 3, S, S], of which each rank computes its part."""
        if self.ranks.count == 1:
            return self.student(inputs)
        part = self.student(inputs[self.ranks.share(len(inputs))])
        gathered = (self.ranks.gathered(value, len(inputs)) for value in (part.embedding, part.logits))
        return Outputs(*gathered)

    def told(self, batch: Batch) -> Tensor | tuple[Tensor, ...] | None:
        """Return the teacher's signal of the whole batch; a live teacher looks at each rank's part."""
        if self.ranks.count == 1 or self.signal.teacher is None:
            return self.signal(batch)
        part = self.signal(batch.part(self.ranks.share(len(batch.labels))))
        assert isinstance(part, Tensor)
        return self.ranks.gathered(part, len(batch.labels))

    def say(self, message: str) -> None:
        """Say it once, whatever the number of ranks."""
        if self.ranks.is_first:
            say(message)

    def close_epoch(self) -> None:
        """Evaluate after an epoch's last step, keep the student if it is the best so far, begin the next epoch."""
        if not self.is_finite():
            return
        epoch = self.epoch
        score = self.score_selection()
        means = {part: total.item() / epoch.count for part, total in epoch.totals.items()}
        self.history.append(
            EpochRecord(
                epoch=epoch.number, learning_rate=epoch.rate, train=means, val=score, split=self.recipe.selection
            )
        )
        self.seconds.append(epoch.seconds)
        (passes,) = self.ranks.summed([epoch.passes])
        self.passes += round(passes)
        if self.best is None or score.top1 > self.best[1].top1:
            self.best = epoch.number, score
            self.selected_student = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        if self.board is not None:
            numbers = {"Train loss": means["loss"], "Val loss": score.loss, "Val acc.": score.top1}
            self.board.add(epoch.number, numbers)
        who = f"{self.cell.folder}: " if self.companions > 1 or progress.is_one_of_several else ""
        if epoch.number % max(1, self.numbers.epochs // 20) == 0 or epoch.number == 1 or sys.stderr.isatty():
            self.say(
                f"{who}epoch {epoch.number}/{self.numbers.epochs}: train loss {means['loss']:.4f}, "
                f"{self.recipe.selection} loss {score.loss:.4f}, top-1 {score.top1:.1%}, {epoch.seconds:.1f} s"
            )
        for total in epoch.totals.values():
            total.zero_()  # in place, where a replayed step adds to it
        self.epoch = Epoch(epoch.number + 1, self.generator.get_state(), totals=epoch.totals)

    def finish(self) -> None:
        """Measure, and write the results."""
        parameters, (last, selected) = self.student_parameters(), self.chosen_epochs()
        self.result = metrics(self.job, self.signal, self.batches.count, parameters, last, selected)
        if self.ranks.is_first:
            images = self.steps_per_epoch * self.numbers.batch_size if self.recipe.drop_last else self.batches.count
            teacher = self.signal.teacher
            costs = cost(self.job, teacher, parameters, images, self.seconds, self.passes, self.companions)
            record = RunRecord(metrics=self.result, cost=costs, history=self.history)
            settings, device = self.job.settings(), self.job.device
            self.folder.finish(self.selected_student, record, self.job.facts(), settings, device)
        self.say(
            f"{self.cell.folder}: test top-1 {last.test.top1:.1%} (last epoch), "
            f"{selected.test.top1:.1%} (selected epoch)"
        )

    def chosen_epochs(self) -> tuple[Chosen, Selected]:
        """Measure the last student and the selected one on the test split; with `selection: test` it also chose."""
        assert self.best is not None
        epoch, score = self.best
        held_out = self.recipe.selection == "validation"
        last = Chosen(
            epoch=len(self.history),
            test=self.score("test"),
            validation=self.score("validation") if held_out else None,
            nearest_prototype=self.score_prototypes(),
        )
        end = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        self.student.load_state_dict(self.selected_student)
        selected = Selected(
            epoch=epoch,
            by=self.recipe.selection,
            test=self.score("test"),
            validation=score if held_out else None,
            nearest_prototype=self.score_prototypes(),
        )
        self.student.load_state_dict(end)
        return last, selected

    def is_interrupted_or_due(self) -> bool:
        """Return whether a signal came to any rank, or the last save is long enough ago; all ranks agree."""
        longest = max(SECONDS_BETWEEN_SAVES, self.seconds_of_save / SHARE_FOR_SAVES)
        is_due = self.ranks.is_first and time.monotonic() - self.saved > longest
        number, due = self.ranks.most(int(self.interruption.signal or 0), is_due)
        if number:
            self.interruption.signal = signals.Signals(number)
        return bool(number or due)

    def save(self) -> None:
        """Save the training at the edge of a step."""
        if not self.is_finite():
            return
        start = time.monotonic()
        step = (self.epoch.number - 1) * self.steps_per_epoch + self.epoch.step
        state = self.state()
        if self.ranks.is_first:
            self.checkpoints.save(step, state)
        self.ranks.wait()
        self.saved = time.monotonic()
        self.seconds_of_save = self.saved - start

    def is_finite(self) -> bool:
        """Return whether loss and gradients were finite in every step of the epoch; a run where not has failed.

        Asked before each save: what follows such a step is no state to go on from.
        """
        bad = self.guard.first_bad()
        if bad is not None and self.failure is None:
            self.failure = self.not_finite(self.epoch.number, bad, self.epoch.order)
        return self.failure is None

    def not_finite(self, number: int, step: int, order: Tensor) -> DataError:
        """Mark the run as failed; return what to tell the user. `order`: the generator's state before the epoch."""
        generator = torch.Generator()
        generator.set_state(order)
        batches = self.batches.epoch(self.numbers.batch_size, self.recipe.drop_last, generator)
        rows = next(itertools.islice(batches, step, None)).rows.tolist()
        told = f"loss or gradient is not finite in epoch {number}, step {step + 1} of {self.steps_per_epoch}"
        self.folder.fail({"message": told, "epoch": number, "step": step + 1, "rows": rows})
        return DataError(
            f"{self.cell.folder}: {told}, training images {', '.join(map(str, rows[:8]))}, ... (all in "
            f"{self.folder.path / FAILED}); the weights were left as they were before that step; "
            "lower --learning-rate?"
        )

    def teacher_passes(self) -> int:
        """Return how many images have gone through a teacher in this process."""
        return self.signal.teacher.forward_passes if self.signal.teacher else 0

    def score_selection(self) -> Score:
        """Return the score on the split that chooses the best epoch."""
        return self.score("test") if self.recipe.selection == "test" else self.score("validation")

    def score(self, part: str) -> Score:
        """Return the student's score on the test split or on the rows held out for validation."""
        return evaluate(self.student, self.evaluation(part), self.recipe, self.ranks)

    def score_prototypes(self) -> Accuracy | None:
        """Return the student's test accuracy by its nearest class prototype; None without prototypes."""
        return nearest_prototype(self.student, self.evaluation("test"), self.signal, self.recipe)

    def evaluation(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels of the test split or of the rows held out for validation."""
        split, rows = ("test", None) if part == "test" else ("train", self.job.dataset.validation)
        return self.batches.evaluation(split, rows, EVALUATION_BATCH)  # type: ignore[arg-type]

    def student_parameters(self) -> int:
        """Return the number of the student's parameters."""
        return sum(parameter.numel() for parameter in self.student.parameters())

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "torch": self.ranks.all_of(torch.get_rng_state()),
            "noise": self.ranks.all_of(self.noise.get_state()),
            "epoch": vars(self.epoch),
            "history": [epoch.line() for epoch in self.history],
            "seconds": self.seconds,
            "passes": self.passes,
            "selected": {"epoch": self.best[0], "score": self.best[1].model_dump()} if self.best else {},
            "selected_student": self.selected_student,
        }

    def resume(self) -> bool:
        """Go on from the newest saved state of this very run; return whether there is one."""
        state = self.checkpoints.newest()
        if state is None:
            return False
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        settle(self.optimiser, self.job.device)
        torch.set_rng_state(state["torch"][self.ranks.rank])
        self.noise.set_state(state["noise"][self.ranks.rank])
        self.epoch = Epoch(**state["epoch"])
        self.epoch.totals = {part: total.to(self.job.device) for part, total in self.epoch.totals.items()}
        self.history = [EpochRecord.of(line) for line in state["history"]]
        self.seconds, self.passes = state["seconds"], state["passes"]
        if best := state["selected"]:
            self.best = best["epoch"], Score(**best["score"])
        self.selected_student = state["selected_student"]
        self.say(
            f"{self.cell.folder}: going on in epoch {self.epoch.number}, after step {self.epoch.step} of "
            f"{self.steps_per_epoch}"
        )
        return True
