"""Work on another device than the CPU: torch's `meta` computes nothing, but refuses what lies elsewhere, as GPUs do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipkd.embeddings import acceleration, prepare
from clipkd.embeddings.extract import extract
from clipkd.embeddings.teacher import load
from clipkd.plugins import methods, recipes
from clipkd.runs import loop, optimiser
from clipkd.runs.cuda_graph import StepInputs
from clipkd.runs.evaluation import score_each
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.runs.loop import Group
from clipkd.runs.run import Run
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters

CPU, META = torch.device("cpu"), torch.device("meta")
NUMBERS = Hyperparameters(epochs=2, batch_size=256, learning_rate=1e-3)


@pytest.fixture
def updated(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the kernel of the update is given: `meta` has none of its own. Its generators are the CPU's."""
    given: list[torch.Tensor] = []

    def adamw(*lists: Sequence[torch.Tensor], lr: torch.Tensor, found_inf: torch.Tensor, **_: object) -> None:
        given.extend([*(tensor for one in lists for tensor in one), lr, found_inf])

    real = torch.Generator
    monkeypatch.setattr(optimiser, "functional_adamw", adamw)
    monkeypatch.setattr(torch, "Generator", lambda device=CPU: real())
    return given


def take_step(cells: Sequence[Cell], layout: Layout, folder: Path) -> Group:
    """Take a step of students that form a stack, or of one alone, on `meta`."""
    runs = []
    for cell in cells:
        prepare.for_training(cell, layout, CPU)
        job = open_job(cell, NUMBERS, layout, META)
        source = open_teacher_targets(job)
        runs.append(Run(job, RunFolder(folder / cell.train_type), source, open_batches(job, source)))
    batches = [next(iter(run.rest_of_epoch())) for run in runs]
    inputs = [StepInputs(b.inputs, b.labels, run.teacher_targets(b)) for run, b in zip(runs, batches, strict=True)]
    group = Group(runs)
    loop.update_students(group, inputs)
    return group


def cells_of(recipe: str, teacher: Path) -> list[Cell]:
    """Return a cell of each train type."""
    names = {name: "none" if methods.get(name).signal == "nothing" else str(teacher) for name in methods.names()}
    return [Cell(recipe, "digits", "tiny-32", named, name, 0) for name, named in names.items()]


@pytest.mark.parametrize("recipe", recipes.names())
def test_a_step_of_every_train_type_is_on_the_device(recipe, digits_folder, vit_folder, updated, tmp_path) -> None:
    group = take_step(cells_of(recipe, vit_folder), Layout(digits_folder), tmp_path)
    assert group.objectives.one_by_one == set()
    assert len(updated) > 1000
    assert {tensor.device.type for tensor in updated} == {"meta"}


@pytest.mark.parametrize("student", ["tiny-32", "timm:test_resnet@32"])
def test_a_step_of_one_student_is_on_the_device(student, digits_folder, vit_folder, updated, tmp_path) -> None:
    cells = [cell for cell in cells_of("modern", vit_folder) if cell.train_type == "vanilla"]
    take_step([replace(cell, student=student) for cell in cells], Layout(digits_folder), tmp_path)
    assert {tensor.device.type for tensor in updated} == {"meta"}


def test_the_control_a_tensor_on_the_cpu_is_refused(digits_folder, vit_folder, updated, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "clamp_logit_scales", lambda students: students[0].classifier.bias + torch.zeros(10))
    with pytest.raises(RuntimeError, match="not on the expected device"):
        take_step(cells_of("corrected", vit_folder)[:1], Layout(digits_folder), tmp_path)


NOTHING_TO_READ = "Cannot copy out of meta tensor"
"""What torch says where a result is at last taken to the CPU."""


def test_an_evaluation_is_on_the_device_until_it_is_read(digits_folder, vit_folder, updated, tmp_path) -> None:
    group = take_step(cells_of("corrected", vit_folder)[:1], Layout(digits_folder), tmp_path)
    with pytest.raises(NotImplementedError, match=NOTHING_TO_READ):
        score_each(group.runs[0])


@pytest.mark.parametrize("recipe", ["reference", "corrected", "modern-crop", "modern-full"])
def test_an_extraction_is_on_the_device_until_it_is_read(recipe, digits_folder, vit_folder, tmp_path, monkeypatch):
    cell = Cell(recipe, "digits", "tiny-32", str(vit_folder), "embed-KD", 0)
    layout = Layout(digits_folder)
    prepare.for_training(cell, layout, CPU)
    store = layout.replayed_embeddings(cell) if cell.teacher_source == "replayed" else layout.full_embeddings(cell)
    monkeypatch.setattr(acceleration, "is_close", lambda *_: True)  # it compares numbers
    monkeypatch.setattr(torch, "autocast", lambda *_, **more: nullcontext())  # there is none for `meta`
    images = prepare.dataset(cell.dataset_spec, layout, None)
    teacher = load(store.teacher, layout.teacher(store.teacher), META)
    with pytest.raises(NotImplementedError, match=NOTHING_TO_READ):
        extract(replace(store, folder=tmp_path / "store"), images, teacher, 64)
