"""The training loop, one for every method."""

from __future__ import annotations

import itertools
import math
import resource
import signal as signals
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from clipkd import device as devices
from clipkd.artifacts import read_json
from clipkd.embeddings.zero_shot import zero_shot
from clipkd.errors import DataError, InputError, MachineError
from clipkd.fingerprint import digest, fingerprint
from clipkd.progress import say
from clipkd.runs import FAILED, RunFolder
from clipkd.training.batches import Batch, Batches
from clipkd.training.evaluation import Score, evaluate
from clipkd.training.finite import Guard
from clipkd.training.heads import Heads, Outputs
from clipkd.training.interruption import Interruption
from clipkd.training.job import Job, names, open_batches, open_signal
from clipkd.training.nearest import nearest_prototype
from clipkd.training.network import build_student
from clipkd.training.objective import objective
from clipkd.training.optimiser import adamw, learning_rate
from clipkd.training.ranks import Ranks
from clipkd.training.signals import Prototypes, Signal

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


def train(job: Job, folder: RunFolder, ranks: Ranks | None = None) -> dict[str, Any]:
    """Train the job's student and write its run folder; return the metrics.

    A run that was cut off goes on from its last saved step and ends with the same student. Where several ranks
    train it, the first one writes.

    Raises:
        DataError: an input is damaged or stands for something else; the loss is not finite.
        MachineError: the device's memory or the disk does not suffice; another process writes this run.
        Interrupted: SIGTERM, SIGINT or SIGUSR1 came, and the training is saved.
    """
    signal, ranks = open_signal(job), ranks or Ranks()
    try:
        with folder.held() if ranks.is_first else nullcontext(), Interruption() as interruption:
            (is_finished,) = ranks.most(ranks.is_first and folder.finished(job.identity))
            if is_finished:
                say(f"{folder.path} holds the complete result of this run: nothing to do")
                return read_json(folder.path / "metrics.json")
            return Run(job, folder, signal, open_batches(job, signal), interruption, ranks).train()
    except torch.OutOfMemoryError as error:
        raise out_of_memory(job, error) from None
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise out_of_memory(job, error) from None
        raise


def out_of_memory(job: Job, error: Exception) -> MachineError:
    """Return what to tell the user where memory ran out."""
    first = str(error).splitlines()[0]
    return MachineError(
        f"out of memory on {job.device} with batch size {job.numbers.batch_size}: take a smaller --batch-size ({first})"
    )


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
        if self.ranks.count > 1:  # the same weights everywhere, but dropout of its own in each rank
            torch.manual_seed(int(digest([self.cell.seed, self.ranks.rank])[:15], 16))
        self.optimiser = adamw(self.student, self.numbers, self.recipe)
        self.generator = torch.Generator().manual_seed(self.cell.seed)
        self.steps_per_epoch = self.count_steps()
        self.epoch = self.next_epoch(1)
        self.guard = Guard(self.optimiser, job.device)
        self.history: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.passes = 0
        self.selected: dict[str, Any] = {}
        self.selected_student: dict[str, Tensor] = {}
        self.saved, self.seconds_of_save = time.monotonic(), 0.0

    def count_steps(self) -> int:
        """Return the steps of an epoch; refuse a batch that is larger than the dataset."""
        size = self.numbers.batch_size
        if self.recipe.drop_last:
            if self.batches.count < size:
                raise DataError(f"batch size {size} is larger than the {self.batches.count} training images")
            return self.batches.count // size
        return math.ceil(self.batches.count / size)

    def train(self) -> dict[str, Any]:
        """Train from the beginning or from the saved state, then measure and write the results."""
        if not self.resume() and self.ranks.is_first:
            self.folder.start(self.job.settings(), self.job.device)
        is_first = self.ranks.is_first
        with SummaryWriter(self.folder.path, purge_step=self.epoch.number) if is_first else nullcontext() as board:
            while self.epoch.number <= self.numbers.epochs:
                self.steps()
                self.close_epoch(board)
        metrics, cost = self.metrics(), self.cost()
        if is_first:
            self.folder.finish(self.selected_student, self.history, cost, metrics, self.job.identity)
        last, selected = metrics["last"]["test"]["top1"], metrics["selected"]["test"]["top1"]
        self.say(f"{self.cell.folder}: test top-1 {last:.1%} (last epoch), {selected:.1%} (selected epoch)")
        return metrics

    def say(self, message: str) -> None:
        """Say it once, whatever the number of ranks."""
        if self.ranks.is_first:
            say(message)

    def next_epoch(self, number: int) -> Epoch:
        """Return an epoch that is to begin now."""
        return Epoch(number, self.generator.get_state())

    def steps(self) -> None:
        """Take the steps that are left of the epoch; save at the edge of one, where it is time or a signal came."""
        method, student, epoch = self.cell.method, self.student, self.epoch
        total_steps = self.steps_per_epoch * self.numbers.epochs
        begin = (epoch.number - 1) * self.steps_per_epoch
        self.guard = Guard(self.optimiser, self.job.device)
        self.generator.set_state(epoch.order)
        start, passes = time.perf_counter() - epoch.seconds, self.teacher_passes() - epoch.passes
        for batch in self.batches.epoch(
            self.numbers.batch_size, self.recipe.drop_last, self.generator, start=epoch.step
        ):
            epoch.rate = learning_rate(begin + epoch.step, total_steps, self.numbers, self.recipe)
            for group in self.optimiser.param_groups:
                group["lr"] = epoch.rate
            told = self.told(batch)
            parts = objective(method, student, self.outputs(batch), batch.labels, told, self.recipe)
            self.optimiser.zero_grad()
            parts["loss"].backward()
            self.ranks.average(student.parameters())
            self.guard.look(parts["loss"], student.parameters(), epoch.step)
            self.optimiser.step()
            for part, value in parts.items():
                total = epoch.totals.get(part, torch.zeros((), device=value.device))
                epoch.totals[part] = total + value.detach() * len(batch.labels)
            epoch.count += len(batch.labels)
            epoch.step += 1
            epoch.passes = self.teacher_passes() - passes
            if self.is_interrupted_or_due():
                epoch.seconds = time.perf_counter() - start
                self.save()
                start = time.perf_counter() - epoch.seconds  # saving is no training
        self.check_finite()
        epoch.seconds = time.perf_counter() - start

    def outputs(self, batch: Batch) -> Outputs:
        """Return what the student makes of the whole batch, of which each rank computes its part."""
        if self.ranks.count == 1:
            return self.student(batch.inputs)
        count = len(batch.labels)
        part = self.student(batch.inputs[self.ranks.share(count)])
        return Outputs(self.ranks.gathered(part.embedding, count), self.ranks.gathered(part.logits, count))

    def told(self, batch: Batch) -> Tensor | tuple[Tensor, ...] | None:
        """Return the teacher's signal of the whole batch; a live teacher looks at each rank's part."""
        if self.ranks.count == 1 or self.signal.teacher is None:
            return self.signal(batch)
        part = self.signal(batch.part(self.ranks.share(len(batch.labels))))
        assert isinstance(part, Tensor)
        return self.ranks.gathered(part, len(batch.labels))

    def close_epoch(self, board: SummaryWriter | None) -> None:
        """Evaluate after an epoch's last step, keep the student if it is the best so far, begin the next epoch."""
        epoch = self.epoch
        score = self.score_selection()
        means = {part: total.item() / epoch.count for part, total in epoch.totals.items()}
        row: dict[str, Any] = {"epoch": epoch.number, "learning_rate": epoch.rate}
        row |= {f"train_{part}": value for part, value in means.items()}
        row |= {f"val_{part}": score[part] for part in ("loss", "top1", "top5")} | {"split": self.recipe.selection}
        self.history.append(row)
        self.seconds.append(epoch.seconds)
        (passes,) = self.ranks.summed([epoch.passes])
        self.passes += round(passes)
        if not self.selected or score["top1"] > self.selected["score"]["top1"]:
            self.selected = {"epoch": epoch.number, "score": score}
            self.selected_student = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        if board is not None:
            board.add_scalar("Train loss", means["loss"], epoch.number)
            board.add_scalar("Val loss", score["loss"], epoch.number)
            board.add_scalar("Val acc.", score["top1"], epoch.number)
        if epoch.number % max(1, self.numbers.epochs // 20) == 0 or epoch.number == 1 or sys.stderr.isatty():
            self.say(
                f"epoch {epoch.number}/{self.numbers.epochs}: train loss {means['loss']:.4f}, {self.recipe.selection} "
                f"loss {score['loss']:.4f}, top-1 {score['top1']:.1%}, {epoch.seconds:.1f} s"
            )
        self.epoch = self.next_epoch(epoch.number + 1)

    def is_interrupted_or_due(self) -> bool:
        """Return whether a signal came to any rank, or the last save is long enough ago; all ranks agree."""
        longest = max(SECONDS_BETWEEN_SAVES, self.seconds_of_save / SHARE_FOR_SAVES)
        is_due = self.ranks.is_first and time.monotonic() - self.saved > longest
        number, due = self.ranks.most(int(self.interruption.signal or 0), is_due)
        if number:
            self.interruption.signal = signals.Signals(number)
        return bool(number or due)

    def save(self) -> None:
        """Save the training at the edge of a step; stop it where a signal asked for that.

        Raises:
            Interrupted: a signal came.
        """
        self.check_finite()
        start = time.monotonic()
        step = (self.epoch.number - 1) * self.steps_per_epoch + self.epoch.step
        state = self.state()
        if self.ranks.is_first:
            self.checkpoints.save(step, state)
        self.ranks.wait()
        self.saved = time.monotonic()
        self.seconds_of_save = self.saved - start
        if self.interruption.signal:
            raise self.interruption.error(
                f"{self.cell.folder} is saved at epoch {self.epoch.number}, step {self.epoch.step} of "
                f"{self.steps_per_epoch}; the same command goes on from there"
            )

    def check_finite(self) -> None:
        """Raise DataError where the loss or a gradient was not finite in a step of the epoch; marks the run as failed.

        Before each save: what follows such a step is no state to go on from.
        """
        bad = self.guard.first_bad()
        if bad is not None:
            raise self.not_finite(self.epoch.number, bad, self.epoch.order)

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
        split, rows = ("test", None) if part == "test" else ("train", self.job.dataset.validation)
        return evaluate(self.student, self.batches.evaluation(split, rows, EVALUATION_BATCH), self.recipe, self.ranks)  # type: ignore[arg-type]

    def score_prototypes(self) -> dict[str, float] | None:
        """Return the student's test accuracy by its nearest class prototype; None without prototypes."""
        batches = self.batches.evaluation("test", None, EVALUATION_BATCH)
        return nearest_prototype(self.student, batches, self.signal, self.recipe)

    def zero_shot(self) -> dict[str, Any] | None:
        """Return the test accuracy of a CLIP teacher's own two towers; None where the teacher is no text tower."""
        if not isinstance(self.signal, Prototypes) or self.cell.method.control_of:
            return None
        return zero_shot(self.cell, self.job.layout, self.job.dataset, self.signal.prototypes.cpu().numpy())

    def metrics(self) -> dict[str, Any]:
        """Return the run's results. The test split is measured here; with `selection: test` it also chose."""
        held_out = self.recipe.selection == "validation"
        last = {
            "epoch": len(self.history),
            "test": self.score("test"),
            "validation": self.score("validation") if held_out else None,
            "nearest_prototype": self.score_prototypes(),
        }
        end = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        self.student.load_state_dict(self.selected_student)
        selected = {
            "epoch": self.selected["epoch"],
            "by": self.recipe.selection,
            "test": self.score("test"),
            "validation": self.selected["score"] if held_out else None,
            "nearest_prototype": self.score_prototypes(),
        }
        self.student.load_state_dict(end)
        return {
            "fingerprint": self.fingerprint,
            "identity": self.job.identity,
            "cell": names(self.cell),
            "epochs": self.numbers.epochs,
            "classes": len(self.job.dataset.classes),
            "train_images": self.batches.count,
            "student_parameters": self.student_parameters(),
            "last": last,
            "selected": selected,
            "zero_shot": self.zero_shot(),
        }

    def student_parameters(self) -> int:
        """Return the number of the student's parameters."""
        return sum(parameter.numel() for parameter in self.student.parameters())

    def cost(self) -> dict[str, Any]:
        """Return what the run cost. Weights-only memory, fp32, is the paper's measure."""
        images = self.steps_per_epoch * self.numbers.batch_size if self.recipe.drop_last else self.batches.count
        teacher_bytes = 4 * self.signal.teacher.parameters if self.signal.teacher else 0
        student_bytes = 4 * self.student_parameters()
        on_gpu = self.job.device.type == "cuda"
        source = "none" if self.cell.method.signal == "nothing" else self.cell.teacher_source
        return {
            "device": devices.describe(self.job.device),
            "seconds_per_epoch": [round(seconds, 4) for seconds in self.seconds],
            "images_per_second": round(images / statistics.median(self.seconds), 2),
            "images_per_epoch": images,
            "teacher": {"source": source, "forward_passes": self.passes, "weights_bytes": teacher_bytes},
            "student_weights_bytes": student_bytes,
            "weights_bytes": student_bytes + teacher_bytes,
            "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else peak_process_memory(),
            "peak_memory_of": "cuda" if on_gpu else "process",
        }

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "torch": self.ranks.all_of(torch.get_rng_state()),
            "cuda": self.ranks.all_of(torch.cuda.get_rng_state()) if self.job.device.type == "cuda" else None,
            "epoch": vars(self.epoch),
            "history": self.history,
            "seconds": self.seconds,
            "passes": self.passes,
            "selected": self.selected,
            "selected_student": self.selected_student,
        }

    def resume(self) -> bool:
        """Go on from the newest saved state of this very run; return whether there is one."""
        state = self.checkpoints.newest()
        if state is None:
            return False
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch"][self.ranks.rank])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"][self.ranks.rank])
        self.epoch = Epoch(**state["epoch"])
        self.epoch.totals = {part: total.to(self.job.device) for part, total in self.epoch.totals.items()}
        self.history, self.seconds, self.passes = state["history"], state["seconds"], state["passes"]
        self.selected, self.selected_student = state["selected"], state["selected_student"]
        self.say(
            f"{self.cell.folder}: going on in epoch {self.epoch.number}, after step {self.epoch.step} of "
            f"{self.steps_per_epoch}"
        )
        return True


def peak_process_memory() -> int:
    """Return the largest resident size that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
