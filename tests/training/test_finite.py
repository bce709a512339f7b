"""A number that is not finite: no weight moves from that step on, and the step and its images are named."""

from __future__ import annotations

import json
import re

import pytest
import torch

from clipkd.core.errors import DataError
from clipkd.runs import evaluation
from clipkd.runs.epochs import close_epochs
from clipkd.runs.evaluation import NotFiniteError
from clipkd.runs.finite_guard import FiniteGuard, FiniteGuards
from clipkd.runs.folder import RunFolder
from clipkd.runs.interruption import Interruption
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.runs.loop import Group, train_epoch
from clipkd.runs.optimiser import AdamW
from clipkd.runs.record import Metrics
from clipkd.runs.run import Run
from clipkd.runs.stack import OneStudent
from clipkd.runs.training import train_together
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters

CPU = torch.device("cpu")


def run_of(digits_folder, folder) -> Run:
    cell = Cell("corrected", "digits", "tiny-32", "none", "supervised", 0)
    job = open_job(cell, Hyperparameters(batch_size=100), Layout(digits_folder), CPU)
    source = open_teacher_targets(job)
    return Run(job, RunFolder(folder), source, open_batches(job, source))


def steps(run: Run) -> None:
    """Take the steps of the run's epoch."""
    train_epoch(Group([run]), run.steps_per_epoch, Interruption())


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.student.state_dict().items()}


@pytest.mark.parametrize(("where", "bad"), [("loss", float("inf")), ("gradient", float("nan"))])
def test_the_weights_stay_as_they_were_before_the_step(where, bad, digits_folder, tmp_path, monkeypatch):
    """Step 3 of the epoch gets a bad number; the weights must be those after two steps."""
    right = run_of(digits_folder, tmp_path / "right")
    epoch = right.batches.epoch
    batches = list(epoch(100, True, torch.Generator().manual_seed(0)))
    right.batches.epoch = lambda *_, **__: iter(batches[:2])
    steps(right)

    run = run_of(digits_folder, tmp_path / "run")
    run.batches.epoch = lambda size, drop_last, generator, start=0, *_, **__: iter(batches[start:])
    real, count = FiniteGuards.check, iter(range(100))

    def check(self, losses, gradients):
        step = next(count)
        if step == 2 and where == "gradient":
            gradients[0][5].view(-1)[0] = bad
        elif step == 2:
            losses = [losses[0] * bad]
        real(self, losses, gradients)

    monkeypatch.setattr(FiniteGuards, "check", check)
    steps(run)
    assert isinstance(run.failure, DataError)
    assert re.search(r"not finite in epoch 1, step 3 of 12, training images \d+, ", str(run.failure))
    for name, tensor in weights(right).items():
        assert torch.equal(run.student.state_dict()[name], tensor), name
    failed = json.loads((tmp_path / "run/failed.json").read_text())
    assert (failed["epoch"], failed["step"], failed["rows"]) == (1, 3, batches[2].rows.tolist())


def test_the_first_of_several_bad_steps_is_named():
    """Of a run with bad losses, of one with a bad gradient and of one without a fault, all checked at once."""
    layer = torch.nn.Linear(1, 1)
    guards = [FiniteGuard(AdamW([(list(layer.parameters()), 0.0)], 1e-3), CPU) for _ in range(3)]
    together = FiniteGuards(guards)
    for guard in guards:
        guard.reset(3)
    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    for step, loss in enumerate((1.0, float("nan"), float("inf"), 1.0)):
        own = [[good], [good, bad if step >= 2 else good, good], [good, good]]
        together.check([torch.tensor(loss), torch.tensor(1.0), torch.tensor(1.0)], own)
        assert [guard.optimiser.found_inf.item() for guard in guards] == [step >= 1, step >= 2, 0]
    assert [guard.first_bad_step() for guard in guards] == [4, 5, None]
    # A graph that was captured with other gradients reads its own numbers of them where they were.
    assert len(together.owners) == 1
    kept = next(iter(together.owners.values()))
    together.check([torch.tensor(1.0)] * 3, [[good], [good], [good]])
    assert next(iter(together.owners.values())) is kept


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_student_whose_loss_is_not_finite_when_it_is_measured_has_failed(epoch, digits_folder, tmp_path, monkeypatch):
    """Its last step was sound, and the weights after it are too large for float32."""
    run = run_of(digits_folder, tmp_path / "run")
    for number in range(1, epoch + 1):
        steps(run)
        if number == epoch:
            run.student.classifier.weight.data.fill_(3e38)
        close_epochs([run], OneStudent(run.student, run.ranks))
    assert isinstance(run.failure, DataError)
    assert f"is not finite, after epoch {epoch}; lower --learning-rate?" in str(run.failure)
    assert json.loads((tmp_path / "run/failed.json").read_text())["epoch"] == epoch
    assert len(run.history) == epoch - 1
    assert not run.is_unfinished


def test_one_that_is_not_finite_on_the_test_images_alone_stops_no_other(digits_folder, tmp_path, monkeypatch):
    real = evaluation.score_each

    def score_each(run):
        if run.folder.path.name == "bad":
            raise NotFiniteError("the loss on the images that the student is measured on is not finite")
        return real(run)

    monkeypatch.setattr("clipkd.runs.completion.score_each", score_each)
    numbers = Hyperparameters(epochs=1, batch_size=256)
    cells = [Cell("corrected", "digits", "tiny-32", "none", "supervised", seed) for seed in (0, 1)]
    pairs = [
        (open_job(cell, numbers, Layout(digits_folder), CPU), RunFolder(tmp_path / name))
        for cell, name in zip(cells, ("bad", "good"), strict=True)
    ]
    bad, good = train_together(pairs)
    assert isinstance(bad, DataError)
    assert "is not finite, after epoch 1" in str(bad)
    assert json.loads((tmp_path / "bad/failed.json").read_text())["epoch"] == 1
    assert isinstance(good, Metrics)
