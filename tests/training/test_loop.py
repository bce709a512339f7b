"""Whole trainings, as a user runs them: what they leave, that seeds fix them, that they go on after a crash."""

from __future__ import annotations

import csv
import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from clipkd.plugins import recipes, students
from clipkd.plugins.students._vit import build_student
from clipkd.runs.correct import CORRECT, unpacked
from clipkd.runs.optimiser import AdamW, adamw, learning_rate
from clipkd.spec.settings import Hyperparameters
from tests.warm import clipkd

DIVERGES = ("--learning-rate", 10, "--weight-decay", 10, "--recipe", "reference", "--epochs", 3)
"""Each step multiplies the weights by 1 - 10 * 10: float32 ends after some twenty."""


def train(data: Path, folder: Path, *flags, check=True) -> subprocess.CompletedProcess:
    """Train the tiny student on the digits for two epochs; later flags win."""
    basics = ["--data", data, "--dataset-name", "Digits", "--student", "tiny-32", "--log-folder", folder]
    defaults = ["--train-type", "supervised", "--epochs", 2, "--learning-rate", 1e-3, "--threads", 1]
    return clipkd("train", *basics, *defaults, *flags, check=check)


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def finished(digits_folder, tmp_path_factory) -> Path:
    """A finished supervised run of the corrected recipe."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(digits_folder, folder)
    return folder


def test_a_run_leaves_everything_that_the_tables_read(finished):
    found = metrics(finished)
    assert found["cell"] == {
        "recipe": "corrected", "dataset": "digits", "student": "tiny-32", "teacher": "none",
        "train_type": "supervised", "seed": 0, "teacher_source": "cached",
    }  # fmt: skip
    assert found["selected"]["by"] == "validation"
    assert 0.1 < found["last"]["test"]["top1"] <= found["last"]["test"]["top5"] <= 1
    rows = list(csv.DictReader((finished / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = max(rows, key=lambda row: float(row["val_top1"]))
    assert found["selected"]["epoch"] == int(best["epoch"])
    assert found["selected"]["validation"]["top1"] == float(best["val_top1"])
    cost = json.loads((finished / "cost.json").read_text())
    assert len(cost["seconds_per_epoch"]) == 2
    assert cost["student_weights_bytes"] == 4 * found["student_parameters"] == cost["weights_bytes"]
    assert cost["teacher"] == {"source": "none", "forward_passes": 0, "weights_bytes": 0}
    assert not list(finished.glob(".resume*"))
    correct = unpacked(finished / CORRECT)
    assert {epoch: one.mean() for epoch, one in correct.items()} == pytest.approx(
        {epoch: found[epoch]["test"]["top1"] for epoch in ("last", "selected")}
    )
    assert json.loads((finished / "env.json").read_text())["packages"]["torch"] == torch.__version__


def test_tensorboard_scalars_have_the_released_codes_names(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(finished)).Reload()
    assert sorted(board.Tags()["scalars"]) == ["Train loss", "Val acc.", "Val loss"]
    rows = list(csv.DictReader((finished / "history.csv").open()))
    assert [event.step for event in board.Scalars("Val acc.")] == [1, 2]
    assert [event.value for event in board.Scalars("Val acc.")] == pytest.approx(
        [float(row["val_top1"]) for row in rows]
    )


def test_evaluate_reproduces_the_selected_students_test_score(finished, digits_folder):
    flags = ["--data", digits_folder, "--dataset-name", "digits", "--student", "tiny-32"]
    answer = clipkd("evaluate", finished / "student.safetensors", *flags).stdout
    score = metrics(finished)["selected"]["test"]
    assert f"top-1 {score['top1']:.4f}  top-5 {score['top5']:.4f}  loss {score['loss']:.4f}" in answer
    wrong = clipkd("evaluate", finished / "student.safetensors", *flags[:-1], "base-32", check=False)
    assert wrong.returncode == 3
    assert "does not fit student 'base-32'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_seed_fixes_the_run_to_the_bit(finished, digits_folder, tmp_path):
    train(digits_folder, tmp_path / "again")
    train(digits_folder, tmp_path / "other", "--seed", 1)
    for name in ("metrics.json", "history.csv", "student.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()
    assert (tmp_path / "other" / "history.csv").read_bytes() != (finished / "history.csv").read_bytes()


def test_reference_trains_on_everything_and_chooses_on_the_test_split(digits_folder, finished, tmp_path):
    train(digits_folder, tmp_path / "run", "--recipe", "REFERENCE")
    reference, corrected = metrics(tmp_path / "run"), metrics(finished)
    assert reference["selected"]["by"] == "test"
    assert reference["selected"]["validation"] is None
    assert reference["train_images"] == corrected["train_images"] + 180
    assert all(row["split"] == "test" for row in csv.DictReader((tmp_path / "run" / "history.csv").open()))
    best = max(float(row["val_top1"]) for row in csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert reference["selected"]["test"]["top1"] == best


def test_the_released_flags_work_and_pt_is_a_plain_state_dict(digits_folder, vit_folder, tmp_path):
    flags = ["--dataset-name", "DIGITS", "--teacher-model", vit_folder, "--train-type", "Embed-kd",
             "--log-folder", tmp_path / "L", "--ckpt-save-name", "C.pt"]  # fmt: skip
    data = ("--data", digits_folder, "--student", "TINY-32", "--recipe", "Reference")
    assert clipkd("train", *flags, *data, "--epochs", 1).stdout == f"{tmp_path / 'L'}\n"
    state = torch.load(tmp_path / "L" / "C.pt", weights_only=True)
    student = build_student(students.get("tiny-32"), 10, 16, recipes.get("reference"))
    student.load_state_dict(state, strict=True)
    assert metrics(tmp_path / "L")["cell"]["train_type"] == "embed-KD"
    said = clipkd("evaluate", tmp_path / "L/C.pt", "--dataset-name", "Digits", *data).stdout
    assert said.startswith(f"top-1 {metrics(tmp_path / 'L')['selected']['test']['top1']:.4f} ")
    cost = json.loads((tmp_path / "L" / "cost.json").read_text())
    assert cost["teacher"] == {"source": "cached", "forward_passes": 0, "weights_bytes": 0}


@pytest.mark.slow
def test_a_live_teacher_is_counted_and_trains_the_same_student(digits_folder, vit_folder, tmp_path):
    """Exact numbers in the store: the cached run's losses equal the live run's to rounding."""
    flags = ["--teacher-model", vit_folder, "--train-type", "teacher-KD", "--epochs", 1, "--embed-dtype", "float32"]
    for source in ("live", "cached"):
        train(digits_folder, tmp_path / source, *flags, "--teacher-source", source)
    live, cached = (json.loads((tmp_path / source / "cost.json").read_text()) for source in ("live", "cached"))
    assert live["teacher"]["forward_passes"] == live["images_per_epoch"]
    assert cached["teacher"]["forward_passes"] == 0
    assert live["weights_bytes"] - live["student_weights_bytes"] == live["teacher"]["weights_bytes"] > 0
    losses = [
        next(csv.DictReader((tmp_path / source / "history.csv").open()))["train_loss"] for source in ("live", "cached")
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run(digits_folder, tmp_path):
    answer = train(digits_folder, tmp_path / "run", *DIVERGES, check=False)
    assert answer.returncode == 3
    assert "loss or gradient is not finite in epoch 1, step " in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "run" / "metrics.json").exists()
    failed = json.loads((tmp_path / "run" / "failed.json").read_text())
    assert failed["message"] in answer.stderr
    assert len(failed["rows"]) == 64
    train(digits_folder, tmp_path / "run")
    assert not (tmp_path / "run" / "failed.json").exists(), "a later attempt that succeeds clears the mark"


def test_learning_rate_warms_up_and_falls_along_half_a_cosine():
    numbers = Hyperparameters(learning_rate=2.0)
    assert {learning_rate(step, 1000, numbers, recipes.get("reference")) for step in range(1000)} == {2.0}
    rates = [learning_rate(step, 1000, numbers, recipes.get("corrected")) for step in range(1000)]
    assert rates[0] == pytest.approx(2.0 / 50)
    assert rates[49] == rates[50] == 2.0
    assert rates[525] == pytest.approx(1 + math.cos(math.pi * 475 / 950), abs=1e-12)
    assert 0 < rates[-1] < 1e-4
    assert all(earlier >= later for earlier, later in itertools.pairwise(rates[50:]))
    # `modern`: 310 epochs of 10 steps at 6e-4, from 1e-6 up for 10 epochs, down to 1e-5, and there for 10 epochs.
    modern = Hyperparameters(learning_rate=6e-4)
    rates = [learning_rate(step, 3100, modern, recipes.get("modern")) for step in range(3100)]
    assert rates[0] == pytest.approx(1e-6 + (6e-4 - 1e-6) / 100)
    assert rates[99] == rates[100] == pytest.approx(6e-4)
    assert rates[1550] == pytest.approx((6e-4 + 1e-5) / 2)
    assert rates[2999] > rates[3000] == rates[-1] == pytest.approx(1e-5)
    # A warm-up and a cool-down that leave no step between them.
    both = replace(recipes.get("modern"), warmup_fraction=0.5, cooldown_fraction=0.5)
    rates = [learning_rate(step, 10, modern, both) for step in range(10)]
    assert rates[4] == pytest.approx(6e-4)
    assert rates[5:] == pytest.approx([1e-5] * 5)


def test_the_optimiser_is_torchs_adamw_to_the_bit_and_so_is_its_state():
    weights = [torch.randn(5, 3), torch.randn(7), torch.randn(2)]
    parameters, theirs = ([nn.Parameter(weight.clone()) for weight in weights] for _ in range(2))
    ours = AdamW([(parameters[:1], 0.1), (parameters[1:], 0.0)], 1e-2)
    groups = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=torch.tensor(1e-2), fused=True)
    for step in range(4):
        for mine, other in zip(parameters[:2], theirs[:2], strict=True):  # the last one never has a gradient
            mine.grad, other.grad = (torch.full_like(mine, step - 1.5) for _ in range(2))
        if step == 2:  # a training that is resumed
            ours, before = AdamW(ours.groups, 1.0), ours
            ours.load_state_dict(before.state_dict())
        ours.rate.fill_(1e-2 / (step + 1))
        for group in reference.param_groups:
            group["lr"].fill_(1e-2 / (step + 1))
        ours.step()
        reference.step()
    assert all(torch.equal(mine, other) for mine, other in zip(parameters, theirs, strict=True))
    saved, expected = ours.state_dict()["state"], reference.state_dict()["state"]
    assert saved.keys() == expected.keys()
    for number, state in expected.items():
        assert state.keys() == saved[number].keys()
        assert all(torch.equal(state[key], saved[number][key]) for key in state)


@pytest.mark.long
def test_a_training_process_imports_no_compiler(digits_folder, tmp_path):
    """torch's own optimisers import it when they are first used: a second of each process."""
    words = ["train", "--data", digits_folder, "--dataset-name", "digits", "--student", "tiny-32", "--epochs", 1]
    words += ["--train-type", "supervised", "--log-folder", tmp_path / "run"]
    code = "import sys; from clipkd.cli import main; main(sys.argv[1:]); before = 'torch._dynamo' in sys.modules\n"
    code += "import torch; torch.optim.AdamW([torch.zeros(1)]); print(before, 'torch._dynamo' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True, text=True)
    assert said.stdout.split()[-2:] == ["False", "True"], "or torch no longer does so: AdamW can be its"


def test_weight_decay_spares_what_is_no_matrix_in_the_corrected_recipe():
    for name in ("reference", "corrected"):
        student = build_student(students.get("tiny-32"), 10, 16, recipes.get(name))
        groups = adamw(student, Hyperparameters(weight_decay=0.3), recipes.get(name)).groups
        decay = {id(value): weight_decay for parameters, weight_decay in groups for value in parameters}
        found = {key for key, value in student.named_parameters() if decay[id(value)] == 0}
        assert len(decay) == len(list(student.parameters()))
        assert (found == set()) == (name == "reference")
        if name == "corrected":
            assert {
                "ln_pre.weight",
                "positional_embedding",
                "class_embedding",
                "logit_scale",
                "classifier.bias",
            } <= found
            assert not {"conv1.weight", "classifier.weight", "cluster_projection.weight"} & found


def test_weight_decay_spares_what_a_student_names_itself():
    student = torch.nn.Module()
    student.table, student.matrix = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    student.no_weight_decay = lambda: {"table"}
    (decayed, weight_decay), (spared, nothing) = adamw(student, Hyperparameters(), recipes.get("corrected")).groups
    assert [decayed, spared] == [[student.matrix], [student.table]]
    assert weight_decay > nothing == 0
