"""Runs side by side: each leaves what it leaves alone; they are saved, stopped and failed one by one."""

from __future__ import annotations

import csv
import functools
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from clipkd.core.errors import DataError, Interrupted, MachineError
from clipkd.embeddings import prepare
from clipkd.runs import evaluation, loop, training
from clipkd.runs.cuda_graph import WARM_UP, GraphedStep, StepInputs
from clipkd.runs.epochs import close_epochs
from clipkd.runs.finite_guard import FiniteGuards
from clipkd.runs.folder import RunFolder
from clipkd.runs.interruption import Interruption
from clipkd.runs.job import Job, open_batches, open_job, open_teacher_targets
from clipkd.runs.loop import Group, train_epoch, train_step
from clipkd.runs.record import Metrics
from clipkd.runs.run import Run
from clipkd.runs.stack import Stack
from clipkd.runs.training import train, train_together
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests.training.test_objective import Kernels

CPU = torch.device("cpu")
NUMBERS = Hyperparameters(epochs=2, batch_size=256, learning_rate=1e-3)
STEPS = 6
"""Of 256 images: the digits hold 1437 - 180 for validation, or 1437 with recipe `reference`."""


def cells(teacher: str) -> list[Cell]:
    def cell(train_type: str, seed: int) -> Cell:
        return Cell(
            "reference", "digits", "tiny-32", "none" if train_type == "supervised" else teacher, train_type, seed
        )

    return [cell("embed-KD", 0), cell("embed-KD", 1), cell("teacher-KD", 0), cell("vanilla", 5), cell("supervised", 0)]


@pytest.fixture(scope="module")
def jobs(digits_folder, vit_folder) -> list[Job]:
    """Jobs of mixed train types, whose teacher is there."""
    torch.set_num_threads(1)
    layout = Layout(digits_folder)
    for cell in cells(str(vit_folder)):
        prepare.for_training(cell, layout, CPU)
    return [open_job(cell, NUMBERS, layout, CPU) for cell in cells(str(vit_folder))]


@pytest.fixture(scope="module")
def alone(jobs, tmp_path_factory) -> Callable[[int], Path]:
    """Return what a job leaves alone, by its number; it is trained when it is first asked for."""

    @functools.cache
    def left(number: int) -> Path:
        folder = tmp_path_factory.mktemp("alone")
        train(jobs[number], RunFolder(folder))
        return folder

    return left


def together(jobs: list[Job], folder: Path) -> list[Path]:
    folders = [folder / str(number) for number in range(len(jobs))]
    outcomes = train_together([(job, RunFolder(path)) for job, path in zip(jobs, folders, strict=True)])
    for job, outcome in zip(jobs, outcomes, strict=True):
        assert isinstance(outcome, Metrics), outcome
        assert outcome.cell.seed == job.cell.seed
    return folders


def check_equal_to_rounding(found: Path, wanted: Path) -> None:
    """The same run, computed in another order: losses of every epoch, and where the weights went."""
    ours, theirs = (list(csv.DictReader((folder / "history.csv").open())) for folder in (found, wanted))
    assert ours[0].keys() == theirs[0].keys()
    for row, other in zip(ours, theirs, strict=True):
        assert float(row["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-4)
        assert float(row["val_loss"]) == pytest.approx(float(other["val_loss"]), rel=1e-3)
        assert float(row["val_top1"]) == pytest.approx(float(other["val_top1"]), abs=2 / 360)
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (found, wanted))
    for name, value in theirs.items():
        # AdamW makes a full step of the rounding of a gradient that is 0: some numbers go their own way.
        far = (ours[name] - value).abs() > 1e-4
        assert far.float().mean() < 0.1 or name.endswith("in_proj_bias"), name


@pytest.mark.parametrize(
    ("recipe", "part", "labels"), [("reference", "test", ("all",) * 3), ("corrected", "validation", ("all", 200, 200))]
)
def test_an_epoch_ends_with_the_students_of_a_stack_evaluated_at_once(
    recipe, part, labels, jobs, tmp_path, monkeypatch
):
    """Each by the images that it is measured on alone: those held out for validation differ by seed."""
    runs = []
    for seed, count in enumerate(labels):
        cell = replace(jobs[-1].cell, recipe=recipe, seed=seed)
        cell = cell if count == "all" else replace(cell, labels=count)
        job = open_job(cell, NUMBERS, jobs[0].layout, CPU)
        source = open_teacher_targets(job)
        runs.append(Run(job, RunFolder(tmp_path / str(seed)), source, open_batches(job, source)))
    taken = runs if part == "test" else runs[1:]
    assert part == "test" or not np.array_equal(*(run.job.labelled.validation for run in taken))
    group = Group(taken)
    train_step(group, [next(iter(run.rest_of_epoch())) for run in taken])
    alone = [evaluation.score(run, part) for run in taken]
    monkeypatch.setattr("clipkd.runs.epochs.AT_ONCE", ("cpu",))
    monkeypatch.setattr("clipkd.runs.epochs.score", lambda *_: pytest.fail("evaluated alone"))
    close_epochs(taken, group.students)
    for run, wanted in zip(taken, alone, strict=True):
        found = run.history[0].val
        assert found.loss == pytest.approx(wanted.loss, rel=1e-5)
        assert (found.top1, found.top5) == pytest.approx((wanted.top1, wanted.top5), abs=1e-9)
        assert run.history[0].split == part
    assert len({run.history[0].val.loss for run in taken}) == len(taken)
    assert group.students.skeleton.training, "the next step drops as before"
    if part == "validation":  # as many images for each, or each alone
        with pytest.raises(pytest.fail.Exception, match="evaluated alone"):
            close_epochs(runs, group.students)


def test_a_student_of_a_stack_that_is_not_finite_when_it_is_measured_fails_alone(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("clipkd.runs.epochs.AT_ONCE", ("cpu",))
    runs = []
    for seed in (0, 1):
        job = open_job(replace(jobs[-1].cell, seed=seed), NUMBERS, jobs[0].layout, CPU)
        source = open_teacher_targets(job)
        runs.append(Run(job, RunFolder(tmp_path / str(seed)), source, open_batches(job, source)))
    group = Group(runs)
    train_step(group, [next(iter(run.rest_of_epoch())) for run in runs])
    runs[0].student.classifier.weight.data.fill_(3e38)
    close_epochs(runs, group.students)
    assert "is not finite, after epoch 1" in str(runs[0].failure)
    assert (runs[1].failure, len(runs[1].history)) == (None, 1)


@pytest.mark.long
def test_each_leaves_what_it_leaves_alone(jobs, alone, tmp_path):
    folders = together(jobs, tmp_path)
    for number, found in enumerate(folders):
        wanted = alone(number)
        check_equal_to_rounding(found, wanted)
        ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (found, wanted))
        assert ours["fingerprint"] == theirs["fingerprint"], "how a run is computed is no part of what it is"
        assert json.loads((found / "cost.json").read_text())["side_by_side"] == len(jobs)
        assert {path.name for path in found.iterdir() if "tfevents" not in path.name} == {
            path.name for path in wanted.iterdir() if "tfevents" not in path.name
        }
    with pytest.raises(AssertionError):  # the control: another seed
        check_equal_to_rounding(folders[0], alone(1))


def times(run):
    """Return when each file of a run was written, but its lock's."""
    return {path.name: path.stat().st_mtime_ns for path in run.iterdir() if not path.name.startswith(".lock")}


def test_complete_runs_are_left_as_they_are(jobs, alone, tmp_path, capfd):
    first = Path(shutil.copytree(alone(0), tmp_path / "first"))
    before = times(first)
    outcomes = train_together([(jobs[1], RunFolder(tmp_path / "new")), (jobs[0], RunFolder(first))])
    assert [outcome.cell.seed for outcome in outcomes] == [1, 0]
    assert times(first) == before
    assert f"{first} holds the complete result of this run: nothing to do" in capfd.readouterr().err


def test_one_that_can_not_go_on_stops_no_other(jobs, tmp_path):
    """Its teacher's signal has been made again since it was saved: that is found when it is resumed."""
    broken = RunFolder(tmp_path / "broken")
    with pytest.MonkeyPatch.context() as patch:
        real = training.begin
        patch.setattr(training, "begin", lambda run: refused() if run.folder.path == broken.path else real(run))
        outcomes = train_together([(jobs[0], broken), (jobs[1], RunFolder(tmp_path / "whole"))])
    assert [type(outcome) for outcome in outcomes] == [DataError, Metrics]


def refused():
    raise DataError("no sound checkpoint")


@pytest.mark.long
def test_stopped_together_they_go_on_together_or_alone(jobs, alone, tmp_path, monkeypatch):
    """Saved in the second epoch; then one goes on alone, the others catch up from where they were."""
    pairs = [(job, RunFolder(tmp_path / str(number))) for number, job in enumerate(jobs[:3])]
    wanted = [alone(number) for number in range(3)]
    taken, update = iter(range(1, 100)), loop.update_students

    def interrupted(group, step_inputs):
        if next(taken) == STEPS + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        update(group, step_inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update_students", interrupted)
        with pytest.raises(Interrupted, match=r"and 2 beside it are saved at epoch 2, step 2 of 6"):
            train_together(pairs)
    for _, folder in pairs:
        assert [path.name for path in (folder.path / ".resume").iterdir()] == [f"{STEPS + 2:010d}"]
    # One is stopped again, further on, so that the others are behind.
    monkeypatch.setattr("clipkd.runs.checkpointing.SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("clipkd.runs.checkpointing.SHARE_FOR_SAVES", float("inf"))
    taken = iter(range(1, 100))

    def once_more(group, step_inputs):
        if next(taken) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        update(group, step_inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update_students", once_more)
        with pytest.raises(Interrupted, match=r"seed0 is saved at epoch 2, step 4 of 6"):
            train(*pairs[0])
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update_students", lambda group, inputs: (sizes.append(len(inputs)), update(group, inputs)))
        assert all(isinstance(outcome, Metrics) for outcome in train_together(pairs))
    assert sizes == [2, 2, 3, 3], "two catch up from step 2 to 4, then all go together"
    for (_, folder), whole in zip(pairs, wanted, strict=True):
        check_equal_to_rounding(folder.path, whole)


def test_one_that_goes_on_alone_says_with_how_many_it_was_trained(jobs, tmp_path):
    pairs = [(job, RunFolder(tmp_path / str(number))) for number, job in enumerate(jobs[:2])]
    update = loop.update_students

    def interrupted(group, step_inputs):
        os.kill(os.getpid(), signal.SIGTERM)
        update(group, step_inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update_students", interrupted)
        with pytest.raises(Interrupted):
            train_together(pairs)
    train(*pairs[0])
    assert json.loads((tmp_path / "0/cost.json").read_text())["side_by_side"] == 2


def test_one_that_is_not_finite_fails_alone(jobs, alone, tmp_path, monkeypatch):
    wanted = {number: alone(number) for number in (0, 2)}
    real, calls = FiniteGuards.check, iter(range(1000))

    def check(self, losses, gradients):
        """Spoil a gradient of the second of three runs in its third step."""
        if next(calls) == 2:
            gradients[1][0][0] = float("nan")
        real(self, losses, gradients)

    monkeypatch.setattr(FiniteGuards, "check", check)
    pairs = [(job, RunFolder(tmp_path / str(number))) for number, job in enumerate(jobs[:3])]
    outcomes = train_together(pairs)
    assert isinstance(outcomes[1], DataError)
    assert "embed-KD/seed1: loss or gradient is not finite in epoch 1, step 3 of 6" in str(outcomes[1])
    assert json.loads((tmp_path / "1/failed.json").read_text())["step"] == 3
    assert not (tmp_path / "1/metrics.json").exists()
    for number, whole in wanted.items():
        check_equal_to_rounding(tmp_path / str(number), whole)


def test_a_folder_that_another_writes_fails_alone(jobs, tmp_path):
    pairs = [(job, RunFolder(tmp_path / str(number))) for number, job in enumerate(jobs[:2])]
    with pairs[0][1].held():
        outcomes = train_together(pairs)
    assert isinstance(outcomes[0], MachineError)
    assert "being written by" in str(outcomes[0])
    assert isinstance(outcomes[1], Metrics)


def run_of(job: Job, folder: Path) -> Run:
    source = open_teacher_targets(job)
    return Run(job, RunFolder(folder), source, open_batches(job, source))


class Reads(TorchDispatchMode):
    """Counts the times that a number is read from the device, which makes the host wait."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("several", [1, 3])
def test_nothing_waits_for_the_device_inside_an_epoch(several, jobs, tmp_path, monkeypatch):
    runs = [run_of(job, tmp_path / str(number)) for number, job in enumerate(jobs[:several])]
    group, update = Group(runs), loop.update_students
    # In front of the first step a shuffle is drawn; after the last one the guard is asked.
    reads = Reads()
    inside: list[int] = []

    def counted(group, step_inputs):
        inside.append(reads.count)
        update(group, step_inputs)

    monkeypatch.setattr(loop, "update_students", counted)
    with reads:
        train_epoch(group, STEPS, Interruption())
    assert len(inside) == STEPS
    assert inside[-1] == inside[0]
    assert reads.count > inside[-1], "the guard's own read, once an epoch, is seen: so is any other"


def test_another_student_adds_few_operations(jobs, tmp_path):
    """A GPU launches each as a kernel: its update, and no loss, guard, mask or total of its own."""

    def operations(count: int) -> int:
        each = [open_job(replace(jobs[0].cell, seed=seed), NUMBERS, jobs[0].layout, CPU) for seed in range(count)]
        runs = [run_of(job, tmp_path / f"{count}-{job.cell.seed}") for job in each]
        batches = [next(iter(run.rest_of_epoch())) for run in runs]
        inputs = [StepInputs(batch.inputs, batch.labels, run.teacher_targets(batch))
                  for run, batch in zip(runs, batches, strict=True)]  # fmt: skip
        group = Group(runs)
        loop.update_students(group, inputs)  # the first step makes the optimiser's state
        with Kernels() as seen:
            loop.update_students(group, inputs)
        return seen.count

    two, six = operations(2), operations(6)
    assert two > 300
    assert six - two <= 4 * 10


def test_a_step_from_fixed_places_is_the_step(jobs, tmp_path):
    """What a GPU captures and replays: here replaying does the work again, in the same places."""
    job = jobs[0]
    plain, replayed = run_of(job, tmp_path / "plain"), run_of(job, tmp_path / "replayed")
    captures = []

    def capture(work):
        captures.append(work)
        return work

    group = Group([replayed])
    assert group.graph is None, "only GPUs have graphs"
    group.graph = GraphedStep(partial(loop.update_students, group), NUMBERS.batch_size, capture)
    rate = replayed.optimiser.rate
    train_epoch(Group([plain]), STEPS, Interruption())
    train_epoch(group, STEPS, Interruption())
    # 5 full batches: the first few warm up, the rest are replayed; the incomplete last one is neither.
    assert (len(captures), group.graph.warmed) == (1, WARM_UP)
    assert len(group.graph.static[0].labels) == NUMBERS.batch_size
    assert replayed.optimiser.rate is rate, "the learning rate stays where it is read"
    for name, value in plain.student.state_dict().items():
        assert torch.equal(replayed.student.state_dict()[name], value), name
    assert {part: total.item() for part, total in plain.epoch.totals.items()} == {
        part: total.item() for part, total in replayed.epoch.totals.items()
    }
    totals = replayed.epoch.totals
    replayed.epoch.step = STEPS
    close_epochs([replayed], group.students)
    assert all(replayed.epoch.totals[part] is total and total == 0 for part, total in totals.items())


@pytest.mark.parametrize("clamps", [True, False])
@pytest.mark.parametrize("how", ["alone", "in a stack", "as a graph"])
def test_a_scale_above_its_maximum_comes_back_in_the_next_step(how, clamps, jobs, tmp_path, monkeypatch):
    cell = replace(jobs[0].cell, recipe="corrected")
    prepare.for_training(cell, jobs[0].layout, CPU)
    seeds = [0, 1] if how == "in a stack" else [0]
    corrected = [open_job(replace(cell, seed=seed), NUMBERS, jobs[0].layout, CPU) for seed in seeds]
    runs = [run_of(job, tmp_path / str(job.cell.seed)) for job in corrected]
    group = Group(runs)
    if how == "as a graph":
        group.graph = GraphedStep(partial(loop.update_students, group), NUMBERS.batch_size, lambda work: work)
    if not clamps:
        monkeypatch.setattr(loop, "clamp_logit_scales", lambda students: None)
    for run in runs:
        run.student.logit_scale.data.fill_(math.log(100) + 1)
    train_epoch(group, STEPS - 1, Interruption())
    for run in runs:
        assert (run.student.logit_scale.item() <= math.log(100) + 1e-6) == clamps


def test_what_one_of_several_saves_is_its_own_student(jobs, tmp_path):
    """Not the stack's tensors, of which its own are views."""
    runs = [run_of(job, tmp_path / str(number)) for number, job in enumerate(jobs[:3])]
    group = Group(runs)
    saved = runs[1].state_dict()["student"]
    assert isinstance(group.students, Stack)
    for name, tensor in saved.items():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
        assert torch.equal(tensor, runs[1].student.state_dict()[name])


def test_control_a_replay_that_forgets_the_batch_differs(jobs, tmp_path):
    plain, replayed = run_of(jobs[0], tmp_path / "plain"), run_of(jobs[0], tmp_path / "replayed")
    group = Group([replayed])
    group.graph = GraphedStep(partial(loop.update_students, group), NUMBERS.batch_size, lambda work: lambda: None)
    train_epoch(Group([plain]), STEPS, Interruption())
    train_epoch(group, STEPS, Interruption())
    difference = plain.student.state_dict()["conv1.weight"] - replayed.student.state_dict()["conv1.weight"]
    assert difference.abs().max() > 1e-5
