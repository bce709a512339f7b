"""A training that is cut off, at any step, goes on and ends with the same student, to the bit."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipkd.cli import main
from clipkd.core import lock
from clipkd.core.errors import DataError, InputError, Interrupted, MachineError
from clipkd.data.dataset import open_dataset
from clipkd.embeddings import prepare
from clipkd.runs import loop, precision, training
from clipkd.runs.finite_guard import FiniteGuards
from clipkd.runs.folder import STUDENT, RunFolder, load_student
from clipkd.runs.job import open_job
from clipkd.runs.load_student import evaluate_file
from clipkd.runs.ranks import Ranks
from clipkd.runs.record import Score
from clipkd.runs.unfinished import STATE, Checkpoints
from clipkd.runs.verification import verify
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests import warm

RESULTS = ("metrics.json", "history.csv", "student.safetensors")
EPOCHS = 3
CELL = Cell("corrected", "digits", "tiny-32", "none", "supervised", 0)


@pytest.fixture(autouse=True)
def save_after_every_step(monkeypatch):
    monkeypatch.setattr("clipkd.runs.checkpointing.SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("clipkd.runs.checkpointing.SHARE_FOR_SAVES", float("inf"))


def train(data: Path, folder: Path, epochs: int = EPOCHS) -> None:
    torch.set_num_threads(1)
    numbers = Hyperparameters(epochs=epochs, batch_size=128, learning_rate=1e-3)
    training.train(open_job(CELL, numbers, Layout(data), torch.device("cpu")), RunFolder(folder))


@pytest.fixture(scope="module")
def whole(digits_folder, tmp_path_factory) -> Path:
    """A run that nothing cut off."""
    folder = tmp_path_factory.mktemp("whole")
    train(digits_folder, folder)
    return folder


def check_equal(folder: Path, whole: Path) -> None:
    for name in RESULTS:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (folder / ".resume").exists()


@pytest.mark.slow
def test_killed_between_the_result_and_the_tidying_up(digits_folder, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "sweep", lambda *_: time.sleep(60))
        child = os.fork()
        if child == 0:
            train(digits_folder, tmp_path)
        while not (tmp_path / "metrics.json").exists():
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert (tmp_path / ".resume").exists()
    (tmp_path / ".student.safetensors.x.tmp").touch()  # of a kill while it was written
    (tmp_path / ".onnx.x.tmp").mkdir()  # of an export into the run folder
    written = (tmp_path / "metrics.json").stat().st_mtime_ns
    train(digits_folder, tmp_path)
    assert not (tmp_path / ".resume").exists()
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [".onnx.x.tmp"]
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == written, "it was complete: not trained again"
    check_equal(tmp_path, whole)


LOST = {
    "missing result": lambda run: (run / "metrics.json").unlink(),
    "damaged result": lambda run: damage(run / "metrics.json", "flipped"),
    "damaged student": lambda run: damage(run / "student.safetensors", "flipped"),
    "missing student": lambda run: (run / "student.safetensors").unlink(),
    "missing history": lambda run: (run / "history.csv").unlink(),
    "missing manifest": lambda run: (run / "manifest.json").unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "lost",
    [
        "missing result",
        "damaged student",
        *(
            pytest.param(one, marks=pytest.mark.long)
            for one in LOST
            if one not in ("missing result", "damaged student")
        ),
    ],
)
def test_a_result_that_is_not_whole_is_trained_again(lost, digits_folder, whole, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    LOST[lost](run)
    train(digits_folder, run)
    said = capfd.readouterr().err
    check_equal(run, whole)
    assert f"epoch {EPOCHS}/{EPOCHS}" in said
    if lost == "missing student":
        assert f"{run} will be trained again, because {run / STUDENT} is missing" in said
    elif lost != "missing result":
        assert f"{run} will be trained again, because its result is damaged: " in said


def test_another_runs_result_stays_until_it_is_replaced(digits_folder, whole, tmp_path, capfd):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    stopped_at(5, digits_folder, run, epochs=1)
    told = (
        f"{run} holds a run with other settings, which is replaced when this one is complete:\n  training.epochs: found"
    )
    assert told in capfd.readouterr().err
    assert all((run / name).read_bytes() == (whole / name).read_bytes() for name in RESULTS)
    assert verify([run]).damaged == []
    train(digits_folder, run, epochs=1)
    assert "resuming in epoch 1, after step 5" in capfd.readouterr().err
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 1
    assert verify([run]).damaged == []
    train(digits_folder, run)
    check_equal(run, whole)


def run_as(data: Path, folder: Path, checkpoint: Path, epochs: int) -> bytes:
    """Train, and return the student."""
    torch.set_num_threads(1)
    numbers = Hyperparameters(epochs=epochs, batch_size=128, learning_rate=1e-3)
    training.train(open_job(CELL, numbers, Layout(data), torch.device("cpu")), RunFolder(folder, checkpoint))
    return checkpoint.read_bytes()


@pytest.mark.slow
def test_another_runs_student_does_not_stand_for_this_ones(digits_folder, tmp_path, capfd):
    """Two names in one folder; one name, outside, for two runs."""
    one, other = tmp_path / "run/one.pt", tmp_path / "run/other.pt"
    run_as(digits_folder, tmp_path / "run", one, 1)
    capfd.readouterr()
    wanted = run_as(digits_folder, tmp_path / "run", other, 2)
    assert "training.epochs: found 1, wanted 2\n" in capfd.readouterr().err
    assert not one.exists()
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    assert run_as(digits_folder, tmp_path / "run", one, 2) == wanted

    shared = tmp_path / "shared.safetensors"
    first = run_as(digits_folder, tmp_path / "first", shared, 1)
    assert run_as(digits_folder, tmp_path / "second", shared, 2) != first
    assert run_as(digits_folder, tmp_path / "first", shared, 1) == first
    written = shared.stat().st_mtime_ns
    assert run_as(digits_folder, tmp_path / "first", shared, 1) == first
    assert shared.stat().st_mtime_ns == written, "it was complete"


def test_ranks_that_would_go_on_from_different_steps_are_refused(digits_folder, tmp_path, monkeypatch):
    stopped_at(14, digits_folder, tmp_path)
    real = Ranks.maximum
    positions = iter(
        [(20, -14)]
    )  # asked once; all else that ranks agree on is one number, or two that are not negative

    def maximum(ranks, *told):
        return list(next(positions)) if told[-1] < 0 else real(ranks, *told)

    monkeypatch.setattr(Ranks, "maximum", maximum)
    with pytest.raises(DataError, match=r"different steps \(14 to 20\)"):
        train(digits_folder, tmp_path)


def stopped_at(step: int, data: Path, folder: Path, epochs: int = EPOCHS) -> None:
    """Train until a signal comes in the given step of the whole run."""
    steps, look = iter(range(1, 10_000)), FiniteGuards.check

    def looked(guards, *arguments):
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        look(guards, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FiniteGuards, "check", looked)
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            train(data, folder, epochs)


@pytest.mark.slow
@pytest.mark.parametrize("step", [9, *(pytest.param(step, marks=pytest.mark.long) for step in (1, 5, 10, 18, 27))])
def test_stopped_at_the_edge_of_a_step(step, digits_folder, whole, tmp_path):
    """There are 9 steps an epoch: the first, within, the last of an epoch, the next's first, the very last."""
    stopped_at(step, digits_folder, tmp_path)
    assert Checkpoints(tmp_path / ".resume", {}).steps()[0].name == f"{step:010d}"
    assert verify([tmp_path]).damaged == []
    train(digits_folder, tmp_path)
    check_equal(tmp_path, whole)


@pytest.mark.slow
def test_a_run_that_was_saved_on_another_kind_of_device_goes_on(digits_folder, whole, tmp_path, monkeypatch, capfd):
    """A GPU's generator has another state: 16 bytes."""
    stopped_at(5, digits_folder, tmp_path)
    real = Checkpoints.newest
    state_of_a_gpu = torch.zeros(16, dtype=torch.uint8)
    monkeypatch.setattr(Checkpoints, "newest", lambda self: real(self) | {"noise": [state_of_a_gpu]})
    train(digits_folder, tmp_path)
    assert "saved on another kind of device: dropout draws other numbers from here on" in capfd.readouterr().err
    found, wanted = (load_student(path / "student.safetensors") for path in (tmp_path, whole))
    assert not torch.equal(found["conv1.weight"], wanted["conv1.weight"])
    assert (found["conv1.weight"] - wanted["conv1.weight"]).abs().max() < 0.1, "the weights that were saved went on"


@pytest.mark.long
@pytest.mark.parametrize("part", ["noise", "optimiser", "epoch"])
def test_control_without_a_part_of_the_state_the_student_differs(part, digits_folder, whole, tmp_path, monkeypatch):
    """What the checkpoint holds is needed: dropout's generator, the optimiser's moments, the place in the epoch."""
    stopped_at(5, digits_folder, tmp_path)
    real = Checkpoints.newest

    def without(self):
        state = real(self)
        if part == "noise":
            state["noise"] = [torch.Generator().manual_seed(99).get_state()]
        elif part == "optimiser":
            state["optimiser"]["state"] = {}
        else:
            state["epoch"]["step"] -= 1
        return state

    monkeypatch.setattr(Checkpoints, "newest", without)
    train(digits_folder, tmp_path)
    assert (tmp_path / "student.safetensors").read_bytes() != (whole / "student.safetensors").read_bytes()


@pytest.mark.slow
def test_the_first_best_epoch_is_chosen_and_survives_a_resume(digits_folder, tmp_path, monkeypatch):
    """Epochs 1 and 2 are equally good, the last is worse; the run is stopped in the second."""
    reached = {1: 0.5, 2: 0.5, 3: 0.4}
    after_first: dict[Path, dict[str, torch.Tensor]] = {}

    def score(run, part):
        if run.epoch.number == 1:
            after_first[run.folder.path] = {name: value.clone() for name, value in run.student.state_dict().items()}
        return Score(top1=reached[run.epoch.number], top5=1.0, loss=1.0)

    monkeypatch.setattr("clipkd.runs.epochs.score", score)
    uncut, cut = tmp_path / "uncut", tmp_path / "cut"
    train(digits_folder, uncut)
    stopped_at(14, digits_folder, cut)
    train(digits_folder, cut)
    check_equal(cut, uncut)
    found = json.loads((cut / "metrics.json").read_text())
    assert found["selected"]["epoch"] == 1
    kept = load_student(cut / "student.safetensors")
    dataset = open_dataset(CELL.dataset_spec, Layout(digits_folder).dataset(CELL.dataset_spec))
    student, recipe = CELL.student_spec, CELL.recipe_spec
    measured = evaluate_file(cut / "student.safetensors", dataset, student, recipe, torch.device("cpu"))
    assert found["selected"]["test"] == pytest.approx(measured.model_dump())
    assert found["last"]["test"]["loss"] != pytest.approx(measured.loss), "the last student is another one"
    assert kept.keys() == after_first[uncut].keys()
    assert all(torch.equal(kept[name], value) for name, value in after_first[uncut].items())


@pytest.mark.slow
def test_teacher_passes_are_counted_across_a_resume(digits_folder, vit_folder, tmp_path, monkeypatch):
    live = Cell("reference", "digits", "tiny-32", str(vit_folder), "teacher-KD", 0, "live")
    monkeypatch.setattr(sys.modules[__name__], "CELL", live)
    prepare.for_training(live, Layout(digits_folder), torch.device("cpu"), 256)
    passes = {}
    for name in ("uncut", "cut"):
        if name == "cut":
            stopped_at(14, digits_folder, tmp_path / name, epochs=2)
        train(digits_folder, tmp_path / name, epochs=2)
        cost = json.loads((tmp_path / name / "cost.json").read_text())
        passes[name] = cost["teacher"]["forward_passes"]
        assert passes[name] == 2 * cost["images_per_epoch"]
    assert passes["cut"] == passes["uncut"]


def test_the_mean_loss_of_an_epoch_is_over_its_images(digits_folder, tmp_path, monkeypatch):
    """The last batch is smaller than the others: a mean over steps would weigh its images more."""
    seen: list[tuple[float, int]] = []
    real = loop.add_losses

    def add_losses(epochs, losses, count):
        seen.append((losses[0]["loss"].item(), count))
        real(epochs, losses, count)

    monkeypatch.setattr(loop, "add_losses", add_losses)
    # `corrected` leaves a smaller last batch out.
    monkeypatch.setattr(sys.modules[__name__], "CELL", replace(CELL, recipe="reference"))
    train(digits_folder, tmp_path, epochs=1)
    sizes = [count for _, count in seen]
    assert sizes[-1] < sizes[0]
    (row,) = csv.DictReader((tmp_path / "history.csv").open())
    mean = sum(loss * count for loss, count in seen) / sum(sizes)
    assert float(row["train_loss"]) == pytest.approx(mean, rel=1e-5)
    assert mean != pytest.approx(sum(loss for loss, _ in seen) / len(seen), rel=1e-5)


COMMAND = (
    "import sys; from clipkd.runs import checkpointing; checkpointing.SECONDS_BETWEEN_SAVES = 3600; "
    "from clipkd.cli import main; sys.exit(main(sys.argv[1:]))"
)


def start(data: Path, folder: Path) -> subprocess.Popen:
    cell = ["--dataset-name", "digits", "--student", "tiny-32", "--train-type", "supervised"]
    numbers = ["--epochs", 60, "--batch-size", 128, "--learning-rate", 1e-3, "--threads", 1]
    flags = ["train", "--data", data, "--log-folder", folder, *cell, *numbers]
    process = subprocess.Popen(
        [warm.python(), "-c", COMMAND, *map(str, flags)], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            return process
    raise AssertionError("the training did not begin")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_the_exit_code_of_a_signal_is_the_shells(number, code):
    assert Interrupted(number, "").exit_code == code


def test_a_signal_saves_and_leads_to_a_retry(digits_folder, tmp_path):
    """As a process; the signal comes twice."""
    number, code = signal.SIGUSR1, 75
    process = start(digits_folder, tmp_path)
    process.send_signal(number)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert f"stopped by {number.name}; {CELL.folder} is saved at epoch" in said
    assert "Traceback" not in said
    assert len(list((tmp_path / ".resume").glob("0*/manifest.json"))) == 1
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.slow
def test_a_run_folder_has_one_writer(digits_folder, tmp_path):
    process = start(digits_folder, tmp_path)
    try:
        with pytest.raises(MachineError, match=r"being written by process \d+ on ") as error:
            train(digits_folder, tmp_path)
    finally:
        process.kill()
        process.communicate()
    assert f" process {lock.named_in(lock.newest(tmp_path)).pid} on " in str(error.value)
    train(digits_folder, tmp_path)  # a dead process holds nothing
    assert (tmp_path / "metrics.json").exists()


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2] if how == "truncated" else b"" if how == "empty" else content)


def test_a_planted_pickle_is_not_run(digits_folder, tmp_path):
    """Also where whoever plants it makes the manifest fit."""
    from clipkd.core.artifacts import building, read_manifest

    stopped_at(14, digits_folder, tmp_path)
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    for path in Checkpoints(tmp_path / ".resume", {}).steps():
        identity = read_manifest(path)["identity"]
        shutil.rmtree(path)
        with building(path, "checkpoint", identity) as draft:
            torch.save({"student": Evil()}, draft.path / STATE)
    with pytest.raises(DataError, match=r"no checkpoint in .* is sound; remove that folder"):
        train(digits_folder, tmp_path)
    assert not canary.exists()


def test_checkpoints_of_another_run_stay_until_this_run_is_saved(tmp_path, capfd):
    others, mine = Checkpoints(tmp_path, {"epochs": 3}), Checkpoints(tmp_path, {"epochs": 2})
    others.save(14, {"step": 14})
    assert mine.newest() is None
    told = "is of another run, which is dropped when this one is saved; training from the beginning:\n  epochs: found 3"
    assert told in capfd.readouterr().err
    assert others.newest() == {"step": 14}
    for step in (5, 6, 7):  # earlier than the other run's
        mine.save(step, {"step": step})
    assert [path.name for path in mine.steps()] == ["0000000007", "0000000006"]
    assert mine.newest() == {"step": 7}


def test_a_damaged_checkpoint_of_a_later_step_takes_no_place(tmp_path):
    saves = Checkpoints(tmp_path, {"epochs": 2})
    for step in (5, 10):
        saves.save(step, {"step": step})
    damage(tmp_path / "0000000010" / STATE, "flipped")
    assert saves.newest() == {"step": 5}
    for step in (6, 7):
        saves.save(step, {"step": step})
    assert [path.name for path in saves.steps()] == ["0000000007", "0000000006"]


@pytest.mark.slow
def test_a_command_with_another_setting_touches_no_run(digits_folder, whole, tmp_path, capfd):
    """Finished or not: it is refused, and the setting named; --overwrite replaces the run."""
    command = ["train", "--data", digits_folder, "--dataset-name", "digits", "--train-type", "supervised"]
    command += ["--student", "tiny-32", "--batch-size", 128, "--learning-rate", "1e-3", "--device", "cpu"]
    finished, unfinished = tmp_path / "finished", tmp_path / "unfinished"
    shutil.copytree(whole, finished)
    stopped_at(2, digits_folder, unfinished)
    for folder, what in ((finished, "a complete run"), (unfinished, "an unfinished run")):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        other = [*map(str, command), "--log-folder", str(folder), "--epochs", "1"]
        assert main(other) == 2
        told = capfd.readouterr().err
        assert f"{folder} holds {what} with other settings" in told
        assert "\n  training.epochs: found 3, wanted 1\n" in told
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert main([*other[:-1], str(EPOCHS)]) == 0, "the same settings are no other run"
        assert main([*other, "--overwrite"]) == 0
        assert json.loads((folder / "metrics.json").read_text())["epochs"] == 1


@pytest.mark.slow
def test_a_run_keeps_its_format_where_auto_would_choose_another(digits_folder, whole, tmp_path, monkeypatch, capfd):
    """As after an upgrade (fp32 was the default), or on another machine; the workflow's jobs give --overwrite."""
    command = ["train", "--data", digits_folder, "--dataset-name", "digits", "--train-type", "supervised"]
    command += [
        "--student",
        "tiny-32",
        "--batch-size",
        128,
        "--learning-rate",
        "1e-3",
        "--device",
        "cpu",
        "--overwrite",
    ]
    finished, unfinished = tmp_path / "finished", tmp_path / "unfinished"
    shutil.copytree(whole, finished)
    stopped_at(2, digits_folder, unfinished)
    monkeypatch.setattr(precision, "cpu_gain", lambda: 2.0)
    for folder in (finished, unfinished):
        assert main([*map(str, command), "--log-folder", str(folder), "--epochs", str(EPOCHS)]) == 0
        assert f"{folder} holds a run in fp32, which it keeps" in capfd.readouterr().err
        check_equal(folder, whole)
    assert main([*map(str, command), "--log-folder", str(finished), "--epochs", "1"]) == 0
    replaced = json.loads((finished / "metrics.json").read_text())["identity"]
    assert replaced["training"]["precision"] == "bf16", "a run of other settings says nothing"


def test_a_run_in_a_format_that_this_device_lacks_is_refused_with_the_ways_out(
    digits_folder, tmp_path, monkeypatch, capfd
):
    with monkeypatch.context() as patch:  # a GPU has TF32
        patch.setattr(precision, "has_tf32", lambda device: True)
        numbers = Hyperparameters(epochs=1, batch_size=512, learning_rate=1e-3, precision="tf32")
        training.train(open_job(CELL, numbers, Layout(digits_folder), torch.device("cpu")), RunFolder(tmp_path))
    command = ["train", "--data", digits_folder, "--dataset-name", "digits", "--train-type", "supervised", "--epochs"]
    command += ["1", "--student", "tiny-32", "--batch-size", "512", "--learning-rate", "1e-3", "--device", "cpu"]
    assert main([*map(str, command), "--log-folder", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert f"{tmp_path} holds a run in tf32, which this device (cpu) does not have" in said


def test_until_a_replacement_is_complete_no_byte_of_the_earlier_run_is_lost(digits_folder, whole, tmp_path):
    """Its curves too; when it is complete, only its own are there."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    stopped_at(3, digits_folder, run, EPOCHS + 1)
    for path in whole.iterdir():
        if not path.name.startswith("."):
            assert (run / path.name).read_bytes() == path.read_bytes(), path.name
    (curves,) = {path.name for path in whole.glob("*tfevents*")}
    train(digits_folder, run, EPOCHS + 1)
    left = [path.name for path in run.glob("*tfevents*")]
    assert left and curves not in left, left  # noqa: PT018


def test_a_run_on_other_images_is_not_replaced_either(digits_folder, whole, tmp_path):
    """What the images are is known only once they are packed: the training itself asks."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    identity = json.loads((run / "metrics.json").read_text())["identity"]
    folder = RunFolder(run, may_replace=False)
    folder.refuse_others(identity)
    with pytest.raises(InputError, match=r"dataset\.content: found '[0-9a-f]+', wanted 'other'"):
        folder.refuse_others(identity | {"dataset": identity["dataset"] | {"content": "other"}})
    numbers = Hyperparameters(epochs=1, batch_size=128, learning_rate=1e-3)
    job = open_job(CELL, numbers, Layout(digits_folder), torch.device("cpu"))
    with pytest.raises(InputError, match="holds a complete run with other settings"):
        training.train(job, folder)
    check_equal(run, whole)


def test_a_full_disk_leaves_the_checkpoints_before_it(digits_folder, whole, tmp_path):
    """No file may grow beyond a few bytes from the tenth step on; then there is room again."""
    real, saves = Checkpoints.save, iter(range(1, 1000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(self, step, state):
        if next(saves) == 10:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        real(self, step, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        try:
            with pytest.raises(MachineError, match=r"can't write .*/\.resume/.*: .* bytes are free there"):
                train(digits_folder, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [int(path.name) for path in Checkpoints(tmp_path / ".resume", {}).steps()] == [9, 8]
    train(digits_folder, tmp_path)
    check_equal(tmp_path, whole)


def test_a_full_disk_at_the_end_leaves_the_earlier_result(digits_folder, whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    real, limits = RunFolder.finish, resource.getrlimit(resource.RLIMIT_FSIZE)

    def finish(self, *arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # the student has 200 kB
        real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "finish", finish)
        patch.setattr("clipkd.runs.checkpointing.SECONDS_BETWEEN_SAVES", 1e9)
        try:
            with pytest.raises(MachineError, match=r"can't write .*/student\.safetensors: "):
                train(digits_folder, run, epochs=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for name in RESULTS:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert verify([run]).damaged == []


@pytest.mark.slow
def test_a_signal_after_the_last_step_does_not_fail_a_finished_training(digits_folder, tmp_path):
    """A scheduler takes back what a failed job has made. Ten signals from the moment on that the result is there."""
    flags = ["train", "--data", digits_folder, "--log-folder", tmp_path / "run", "--dataset-name", "digits"]
    flags += ["--student", "tiny-32", "--train-type", "supervised", "--epochs", 1, "--threads", 1]
    # The process is held up after its work, as a slow file system or interpreter would.
    slow = "import atexit, time; atexit.register(time.sleep, 2); "
    process = subprocess.Popen([warm.python(), "-c", slow + COMMAND, *map(str, flags)], stderr=subprocess.PIPE)
    end = time.monotonic() + 200
    while not (tmp_path / "run/metrics.json").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    for _ in range(10):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.wait(100) == 0
