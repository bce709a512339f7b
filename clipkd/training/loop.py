"""The training loop, one for every method."""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from clipkd import device as devices
from clipkd.artifacts import read_json
from clipkd.embeddings.zero_shot import zero_shot
from clipkd.errors import DataError, MachineError
from clipkd.fingerprint import fingerprint
from clipkd.progress import say
from clipkd.runs import FAILED, RunFolder
from clipkd.training.batches import Batches
from clipkd.training.evaluation import Score, evaluate
from clipkd.training.finite import Guard
from clipkd.training.heads import Heads
from clipkd.training.job import Job, names, open_batches, open_signal
from clipkd.training.nearest import nearest_prototype
from clipkd.training.network import build_student
from clipkd.training.objective import objective
from clipkd.training.optimiser import adamw, learning_rate
from clipkd.training.signals import Prototypes, Signal

SECONDS_BETWEEN_SAVES = 60.0
EVALUATION_BATCH = 500


def train(job: Job, folder: RunFolder) -> dict[str, Any]:
    """Train the job's student and write its run folder; return the metrics.

    A run that was cut off goes on from its last saved epoch and ends with the same student.

    Raises:
        DataError: an input is damaged or stands for something else; the loss is not finite.
        MachineError: the device's memory does not suffice.
    """
    signal = open_signal(job)
    if folder.finished(job.identity):
        say(f"{folder.path} holds the complete result of this run: nothing to do")
        return read_json(folder.path / "metrics.json")
    batches = open_batches(job, signal)
    try:
        return Run(job, folder, signal, batches).train()
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

    def __init__(self, job: Job, folder: RunFolder, signal: Signal, batches: Batches) -> None:
        self.job, self.folder, self.signal, self.batches = job, folder, signal, batches
        self.cell, self.numbers, self.recipe = job.cell, job.numbers, job.cell.recipe_spec
        self.fingerprint = fingerprint(job.identity)
        torch.manual_seed(self.cell.seed)
        self.student: Heads = build_student(
            self.cell.student_spec, len(job.dataset.classes), signal.width, self.recipe
        ).to(job.device)
        self.optimiser = adamw(self.student, self.numbers, self.recipe)
        self.generator = torch.Generator().manual_seed(self.cell.seed)
        self.steps_per_epoch = self.count_steps()
        self.history: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.passes = 0
        self.selected: dict[str, Any] = {}
        self.selected_student: dict[str, Tensor] = {}

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
        self.resume()
        if not self.history:
            self.folder.start(self.job.settings(), self.job.device)
        saved = time.monotonic()
        with SummaryWriter(self.folder.path, purge_step=len(self.history) + 1) as board:
            while len(self.history) < self.numbers.epochs:
                self.epoch(board)
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES and len(self.history) < self.numbers.epochs:
                    self.folder.save_resume(self.state())
                    saved = time.monotonic()
        metrics = self.metrics()
        self.folder.finish(self.selected_student, self.history, self.cost(), metrics, self.job.identity)
        last, selected = metrics["last"]["test"]["top1"], metrics["selected"]["test"]["top1"]
        say(f"{self.cell.folder}: test top-1 {last:.1%} (last epoch), {selected:.1%} (selected epoch)")
        return metrics

    def epoch(self, board: SummaryWriter) -> None:
        """Train one epoch, evaluate, keep the student if it is the best so far."""
        number = len(self.history) + 1
        start = time.perf_counter()
        rate, means = self.steps(number)
        self.seconds.append(time.perf_counter() - start)
        score = self.score_selection()
        row: dict[str, Any] = {"epoch": number, "learning_rate": rate}
        row |= {f"train_{part}": value for part, value in means.items()}
        row |= {f"val_{part}": score[part] for part in ("loss", "top1", "top5")} | {"split": self.recipe.selection}
        self.history.append(row)
        if not self.selected or score["top1"] > self.selected["score"]["top1"]:
            self.selected = {"epoch": number, "score": score}
            self.selected_student = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        board.add_scalar("Train loss", means["loss"], number)
        board.add_scalar("Val loss", score["loss"], number)
        board.add_scalar("Val acc.", score["top1"], number)
        if number % max(1, self.numbers.epochs // 20) == 0 or number == 1 or sys.stderr.isatty():
            say(
                f"epoch {number}/{self.numbers.epochs}: train loss {means['loss']:.4f}, {self.recipe.selection} loss "
                f"{score['loss']:.4f}, top-1 {score['top1']:.1%}, {self.seconds[-1]:.1f} s"
            )

    def steps(self, number: int) -> tuple[float, dict[str, float]]:
        """Take an epoch's steps; return the last learning rate and the mean of each loss part."""
        method, student = self.cell.method, self.student
        total_steps = self.steps_per_epoch * self.numbers.epochs
        totals: dict[str, Tensor] = {}
        count = 0
        rate = self.numbers.learning_rate
        passes = self.teacher_passes()
        begin = step = (number - 1) * self.steps_per_epoch
        guard, order = Guard(self.optimiser, self.job.device), self.generator.get_state()
        for batch in self.batches.epoch(self.numbers.batch_size, self.recipe.drop_last, self.generator):
            rate = learning_rate(step, total_steps, self.numbers, self.recipe)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            signal = self.signal(batch)
            parts = objective(method, student, student(batch.inputs), batch.labels, signal, self.recipe)
            self.optimiser.zero_grad()
            parts["loss"].backward()
            guard.look(parts["loss"], student.parameters(), step - begin)
            self.optimiser.step()
            # Sums stay on the device: reading them here would make it wait in every step.
            for part, value in parts.items():
                totals[part] = totals.get(part, torch.zeros((), device=value.device)) + value.detach() * len(
                    batch.labels
                )
            count += len(batch.labels)
            step += 1
        self.passes += self.teacher_passes() - passes
        bad = guard.first_bad()
        if bad is not None:
            raise self.not_finite(number, bad, order)
        return rate, {part: total.item() / count for part, total in totals.items()}

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
        return evaluate(self.student, self.batches.evaluation(split, rows, EVALUATION_BATCH), self.recipe)  # type: ignore[arg-type]

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
        """Return all that the next epoch depends on."""
        return {
            "fingerprint": self.fingerprint,
            "student": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if self.job.device.type == "cuda" else None,
            "history": self.history,
            "seconds": self.seconds,
            "passes": self.passes,
            "selected": self.selected,
            "selected_student": self.selected_student,
        }

    def resume(self) -> None:
        """Go on from the saved state of this very run, if there is one."""
        state = self.folder.load_resume(self.fingerprint)
        if state is None:
            return
        self.student.load_state_dict(state["student"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"])
        self.history, self.seconds, self.passes = state["history"], state["seconds"], state["passes"]
        self.selected, self.selected_student = state["selected"], state["selected_student"]
        say(f"{self.cell.folder}: going on after epoch {len(self.history)}")


def peak_process_memory() -> int:
    """Return the largest resident size that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
