"""Any timm model as a student: its features found, trained with every train type and recipe, read back."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch

from clipkd.core.errors import InputError
from clipkd.core.timm_models import registered
from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it)
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import prepare
from clipkd.plugins import datasets, methods, recipes, students
from clipkd.plugins.students._saved import student_from
from clipkd.plugins.students._vit import build_student
from clipkd.runs.folder import RunFolder, load_student
from clipkd.runs.job import open_batches, open_job, open_teacher_targets
from clipkd.runs.load_student import evaluate_file
from clipkd.runs.objective import Objective
from clipkd.runs.optimiser import adamw
from clipkd.runs.run import Run
from clipkd.runs.training import train
from clipkd.spec.cells import Cell
from clipkd.spec.grid import expand
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Config, Hyperparameters
from tests.warm import clipkd

import timm  # isort: skip

CPU = torch.device("cpu")
NAME = "timm:test_resnet.r160_in1k@32"
TRAIN_TYPES = ["supervised", "vanilla", "teacher-KD", "embed-KD", "embed-KD-random", "embed-KD-onehot"]
MET = {("vanilla", "corrected"), ("teacher-KD", "reference"), ("embed-KD", "reference"), ("embed-KD", "corrected")}
"""Each of a student's outputs in a loss, and both forms of its projection."""


def built(name, recipe="corrected", width=12):
    torch.manual_seed(0)
    return build_student(students.get(name), 7, width, recipes.get(recipe))


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_efficientnet", "mobilenetv3_small_050"])
def test_the_embedding_is_what_the_models_own_classifier_would_see(model):
    """timm's whole model, given the student's body and a classifier of its own, gives the student's class scores."""
    student = built(f"timm:{model}@64").eval()
    is_fixed = timm.models.get_pretrained_cfg_value(model, "fixed_input_size")
    whole = timm.create_model(model, num_classes=7, **({"img_size": 64} if is_fixed else {})).eval()
    whole.load_state_dict(student.body.state_dict(), strict=False)
    with torch.no_grad():
        whole.get_classifier().weight.copy_(student.classifier.weight)
        whole.get_classifier().bias.copy_(student.classifier.bias)
        images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        outputs, expected = student(images), whole(images)
    assert outputs.embedding.shape == (3, student.classifier.in_features)
    torch.testing.assert_close(outputs.logits, expected)
    assert student.cluster_projection.weight.shape == (12, outputs.embedding.shape[1])
    assert built(f"timm:{model}@64", "reference").cluster_projection.weight.shape == (outputs.embedding.shape[1], 12)


def test_names_sizes_and_paths():
    assert students.get("timm:resnet18").image_size == 32
    spec = students.get("timm:vit_tiny_patch16_224.augreg_in21k@64")
    assert (spec.name, spec.image_size) == ("timm-vit-tiny-patch16-224-augreg-in21k-64", 64)
    assert students.get("tiny-32") == students.get("TINY-32")
    for wrong in ["timm:", "timm:../x", "timm:hf-hub:a/b", "timm:resnet18@0", "timm:resnet18@x", "timm:a b"]:
        with pytest.raises(InputError, match="write timm:MODEL"):
            students.get(wrong)


def test_unknown_models_and_sizes_that_do_not_fit_are_refused_in_words():
    with pytest.raises(InputError, match=r"has no model 'resnet81'; did you mean 'resnet.*'"):
        built("timm:resnet81@32")
    with pytest.raises(InputError, match=r"does not take images of 8 pixels; try timm:test_vit@16"):
        built("timm:test_vit@8")


def test_two_models_of_one_path_are_never_mixed():
    block = {
        "name": "x", "datasets": ["digits"], "teachers": ["digits-vit-s"], "students": ["timm:a.b", "timm:a_b"],
        "train_types": ["supervised"], "recipes": ["corrected"], "seeds": [0],
    }  # fmt: skip
    with pytest.raises(InputError, match=r"timm:a_b and timm:a\.b students"):
        expand(Config.model_validate({"grid": [block]}))


def test_positions_and_class_tokens_keep_their_weight():
    student = built("timm:test_vit@32")
    recipe = recipes.get("corrected")
    (_, (kept, _)) = adamw(student, Hyperparameters(), recipe).groups
    names = {name for name, parameter in student.named_parameters() if any(parameter is one for one in kept)}
    assert {"body.pos_embed", "body.cls_token", "logit_scale"} <= names
    assert not {"body.patch_embed.proj.weight", "classifier.weight"} & names


@pytest.fixture(scope="module")
def layout(digits_folder):
    return Layout(digits_folder, dtype="float32")


def test_the_names_of_timms_models_are_known_without_importing_it():
    assert registered() == set(timm.list_models())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train_type", "recipe"),
    [
        pytest.param(*one, marks=[] if one in MET else pytest.mark.long)
        for one in product(TRAIN_TYPES, ("reference", "corrected"))
    ],
)
def test_it_learns_with_every_train_type_and_recipe(train_type, recipe, layout, vit_folder):
    teacher = "none" if methods.get(train_type).signal == "nothing" else str(vit_folder)
    cell = Cell(recipe, "digits", NAME, teacher, train_type, 0, epochs=1)
    prepare.for_training(cell, layout, CPU, 256)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    signal = open_teacher_targets(job)
    student = build_student(cell.student_spec, 10, signal.width, cell.recipe_spec)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-3)
    batch = next(iter(open_batches(job, signal).epoch(64, True, torch.Generator().manual_seed(0))))
    objective = Objective(cell.method, student, cell.recipe_spec)
    found = []
    for _ in range(12):
        parts = objective(student(batch.inputs), batch.labels, signal(batch))
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
        found.append(parts["loss"].item())
    assert found[-1] < found[0] - 0.01


@pytest.mark.slow
def test_a_run_is_written_resumed_and_read_back(layout, vit_folder, tmp_path):
    """A whole run as a process: its folder, its accuracy measured again from the file, its place below results/."""
    flags = ["--dataset-name", "digits", "--teacher-model", vit_folder, "--student", NAME, "--epochs", 3]
    flags += ["--train-type", "embed-KD", "--learning-rate", 3e-3, "--embed-dtype", "float32", "--threads", 1]
    clipkd("train", *flags, "--data", layout.data.resolve(), cwd=tmp_path)
    (folder,) = (tmp_path / "results/runs/corrected/digits").glob("timm-test-resnet-r160-in1k-32/*/embed-KD/seed0")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["cell"]["student"] == NAME
    assert metrics["selected"]["test"]["top1"] > 0.3
    recipe, spec = recipes.get("corrected"), students.get(NAME)
    dataset = open_dataset(datasets.get("digits"), layout.dataset(datasets.get("digits")))
    again = evaluate_file(folder / "student.safetensors", dataset, spec, recipe, CPU)
    assert again.top1 == pytest.approx(metrics["selected"]["test"]["top1"])
    state = load_student(folder / "student.safetensors")
    assert student_from(state, spec, folder).cluster_projection.weight.shape[0] == 16


def test_batch_statistics_are_saved_with_the_best_epoch(layout, tmp_path):
    cell = Cell("corrected", "digits", NAME, "none", "supervised", 0, epochs=2)
    job = open_job(cell, Hyperparameters(epochs=2, learning_rate=3e-3), layout, CPU)
    train(job, RunFolder(tmp_path / "run"))
    state = load_student(tmp_path / "run/student.safetensors")
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    assert means
    assert all(value.abs().sum() > 0 for value in means)


@pytest.mark.parametrize(
    ("recipe", "student", "batches", "is_refused"),
    [
        ("reference", NAME, 2, True),
        ("reference", NAME, 5, True),
        ("reference", "tiny-32", 2, False),  # no batch normalisation
        ("corrected", NAME, 1, False),  # leaves a smaller last batch out
    ],
)
def test_a_last_batch_of_one_image_is_refused_before_the_first_step(
    recipe, student, batches, is_refused, layout, tmp_path, monkeypatch
):
    cell = Cell(recipe, "digits", student, "none", "supervised", 0, epochs=1)
    job = open_job(cell, Hyperparameters(), layout, CPU)
    images = open_batches(job, open_teacher_targets(job)).count
    size = next(size for size in range((images - 1) // (batches - 1 or 1), 1, -1) if images % size == 1)
    job = open_job(cell, Hyperparameters(epochs=1, batch_size=size), layout, CPU)
    monkeypatch.setattr("clipkd.runs.training.train_runs", lambda runs, interruption: None)  # no step is taken
    if is_refused:
        with pytest.raises(InputError, match=rf"has one image \({images:,} training images in batches of {size}\)"):
            train(job, RunFolder(tmp_path / "run"))
        assert not list(tmp_path.glob("run/*.yaml"))
    else:
        source = open_teacher_targets(job)
        assert Run(job, RunFolder(tmp_path / "run"), source, open_batches(job, source)).steps_per_epoch == batches
