"""Rows R: trainings that are killed, signalled, doubled, out of memory, or find what they saved damaged."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipkd.core import lock
from clipkd.core.artifacts import entry_of, read_manifest, write_manifest
from clipkd.core.errors import ClipkdError, DataError, MachineError, lost_device
from clipkd.embeddings import prepare
from clipkd.runs import loop, training
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_job
from clipkd.runs.stack import OneStudent
from clipkd.runs.unfinished import STATE, Checkpoints
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from clipkd.spec.views import Sample
from tests.faults.checks import FULL, amount, fault, nothing, replaced
from tests.faults.processes import ERROR, REFUSED, SAVED, forked, killed, outcome, signalled

CPU = torch.device("cpu")
RESULTS = ("metrics.json", "history.csv", "student.safetensors")
TYPES = ("supervised", "vanilla", "teacher-KD", "embed-KD")
NUMBERS = Hyperparameters(epochs=2, batch_size=256, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def save_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipkd.runs.checkpointing.SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("clipkd.runs.checkpointing.SHARE_FOR_SAVES", float("inf"))


class Study:
    """Trainings on the digits with a small teacher, and what each leaves where nothing goes wrong."""

    def __init__(self, data: Path, teacher: Path, root: Path) -> None:
        self.layout, self.teacher, self.root = Layout(data, sample=Sample(2)), str(teacher), root

    def cell(self, train_type: str) -> Cell:
        return Cell(
            "corrected", "digits", "tiny-32", self.teacher if train_type != "supervised" else "none", train_type, 0
        )

    def train(self, train_type: str, folder: Path, numbers: Hyperparameters = NUMBERS) -> None:
        torch.set_num_threads(1)
        training.train(open_job(self.cell(train_type), numbers, self.layout, CPU), RunFolder(folder))

    def whole(self, train_type: str) -> Path:
        """Return the folder of a training that nothing cut off."""
        folder = self.root / train_type
        if not folder.exists():
            prepare.for_training(self.cell(train_type), self.layout, CPU, 256)
            assert outcome(lambda: self.train(train_type, folder)) == 0
        return folder


@pytest.fixture(scope="module")
def study(digits_folder: Path, vit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("study")
    return Study(Path(shutil.copytree(digits_folder, root / "data")), vit_folder, root)


def is_equal(folder: Path, whole: Path) -> bool:
    return all((folder / name).read_bytes() == (whole / name).read_bytes() for name in RESULTS)


def from_the_start(self: Checkpoints) -> None:
    """The mutant: a resumed generator that is not the saved one."""
    state = NEWEST(self)
    if state is not None:
        state["noise"] = [torch.Generator().manual_seed(77).get_state()]
    return state


NEWEST = Checkpoints.newest


def save_in_place(self: Checkpoints, step: int, state: dict[str, Any]) -> None:
    """The mutant: save as many programs do, over what is there, slowly where the disk is slow."""
    torch.save(state, content := io.BytesIO())
    shutil.rmtree(self.folder, ignore_errors=True)
    (self.folder / f"{step:010d}").mkdir(parents=True)
    with open(self.folder / f"{step:010d}" / STATE, "wb") as stream:
        for start in range(0, len(content.getbuffer()), 1 << 18):
            stream.write(content.getbuffer()[start : start + (1 << 18)])
            stream.flush()
            time.sleep(0.005)


def load_in_place(self: Checkpoints) -> Any:
    return torch.load(self.steps()[0] / STATE, weights_only=True) if self.steps() else None


def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "save", save_in_place)
    monkeypatch.setattr(Checkpoints, "newest", load_in_place)


def is_saved(folder: Path, step: int) -> bool:
    """Return whether a training has come so far."""
    return step == 0 or any(int(path.name) >= step for path in Checkpoints(folder / ".resume", {}).steps())


def moment(draw: random.Random, folder: Path) -> tuple[float, Callable[[], bool]]:
    """Return a random moment of a training, told by its steps and not by the time that this machine needs for them."""
    return draw.uniform(0, 0.1), partial(is_saved, folder, draw.randint(0, 6))


@pytest.mark.slow
@pytest.mark.parametrize("train_type", TYPES if FULL else TYPES[:1])
@fault(
    "R01",
    "R11",
    **{
        "the-generators": replaced("clipkd.runs.unfinished.Checkpoints.newest", from_the_start),
        "saving-aside": in_place,
    },
)
def test_killed_at_random_moments(train_type: str, study: Study, tmp_path: Path, record_property: Any) -> None:
    """SIGKILL after a random step and time, again and again; every run ends with the same student, to the bit."""
    whole, draw = study.whole(train_type), random.Random(len(train_type))
    wanted, hit = amount(2, 200), 0
    for number in range(10 * wanted):
        folder = tmp_path / str(number)
        for _ in range(2):  # a second kill on the way back
            was_killed = killed(partial(study.train, train_type, folder), *moment(draw, folder))
            hit += was_killed and (folder / ".resume").exists()  # before the first save nothing is resumed
        assert outcome(partial(study.train, train_type, folder)) == 0
        assert is_equal(folder, whole), f"kill {hit}"
        assert not (folder / ".resume").exists()
        if hit >= wanted:
            break
    assert hit >= wanted
    record_property(f"{train_type}: kills recovered bit-identical", hit)


@pytest.mark.slow
@fault("R03", **{"the-flag": replaced("clipkd.runs.interruption.SIGNALS", ())})
def test_signals_at_random_moments(study: Study, tmp_path: Path, record_property: Any) -> None:
    """Each signal, twice, at a random moment: saved at a step's edge, and the same student after the next start."""
    whole, numbers, saved = study.whole("supervised"), (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1), 0
    draw = random.Random(3)
    for at in range(amount(2, 50)):
        folder, number = tmp_path / str(at), numbers[at % 3]
        code = signalled(partial(study.train, "supervised", folder), [number] * 2, *moment(draw, folder))
        # Before the training listens, or after its end, the signal has its usual meaning; SIGINT is an exception.
        is_early = code in {-number, ERROR} and not (folder / ".resume").exists()
        assert code in {0, SAVED} or is_early, code
        saved += code == SAVED
        study.train("supervised", folder)
        assert is_equal(folder, whole)
    assert saved > 0
    record_property("signals", amount(2, 50))


@fault("R04", **{"the-guard": replaced("clipkd.runs.finite_guard.FiniteGuards.check", nothing)})
def test_a_step_that_is_not_finite_changes_no_weight(study: Study, tmp_path: Path) -> None:
    study.whole("supervised")
    try:
        study.train("supervised", tmp_path, NUMBERS.model_copy(update={"learning_rate": 1e30}))
    except DataError as error:
        message = str(error)
    except ValueError:
        pytest.fail("trained to the end on numbers that are none")
    else:
        pytest.fail("went on with weights that are no numbers")
    assert "not finite in epoch" in message
    assert "training images" in message
    assert (tmp_path / "failed.json").exists()
    assert not (tmp_path / "metrics.json").exists()


def after_a_save(
    study: Study, folder: Path, strike: Callable[[], object], number: int = 3, train_type: str = "vanilla"
) -> int:
    """Train in a process of its own, strike after so many saves, and return how it ends."""
    real, saves = Checkpoints.save, iter(range(1, 100))

    def save(self: Checkpoints, step: int, state: dict[str, Any]) -> None:
        real(self, step, state)
        if next(saves) == number:
            strike()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        return outcome(lambda: study.train(train_type, folder))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stopped(study: Study, folder: Path) -> None:
    """Train until the step before last has been saved, then die."""
    assert after_a_save(study, folder, die, 6, "supervised") == -signal.SIGKILL


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": content, "truncated": content[:-9], "empty": b""}[how])


@pytest.mark.slow
@fault("R05", **{"the-hashes": replaced("clipkd.core.artifacts.check_files", lambda *_: {})})
def test_a_damaged_checkpoint_is_passed_over(study: Study, tmp_path: Path) -> None:
    whole = study.whole("supervised")
    stopped(study, tmp_path / "all")
    for how in ("flipped", "truncated", "empty"):
        folder = shutil.copytree(tmp_path / "all", tmp_path / how)
        newest, _ = Checkpoints(folder / ".resume", {}).steps()
        # In the middle of the numbers, so that a reader that does not look would take it.
        damaged(newest / STATE, how)
        assert outcome(lambda folder=folder: study.train("supervised", folder)) == 0  # type: ignore[misc]
        assert is_equal(folder, whole), how
    for path in (tmp_path / "all" / ".resume").glob(f"0*/{STATE}"):
        damaged(path, "flipped")
    assert outcome(lambda: study.train("supervised", tmp_path / "all")) == REFUSED


@fault("R09", **{"order-by-step": lambda monkeypatch: monkeypatch.setattr(Checkpoints, "steps", by_time)})
def test_times_decide_nothing(study: Study, tmp_path: Path) -> None:
    """The older checkpoint gets a time in the future, the newer one that of long ago: the newer step counts."""
    stopped(study, tmp_path)
    newest, before = sorted((tmp_path / ".resume").glob("0*"), key=lambda path: -int(path.name))
    for path, when in ((newest, 1e9 - 400 * 86400), (before, time.time() + 400 * 86400)):
        for file in [path, *path.iterdir()]:
            os.utime(file, (when, when))
    folder = RunFolder(tmp_path)
    job = open_job(study.cell("supervised"), NUMBERS, study.layout, CPU)
    state = folder.checkpoints(job.identity).newest()
    assert state is not None
    assert Checkpoints(tmp_path / ".resume", {}).steps()[0] == newest
    assert outcome(lambda: study.train("supervised", tmp_path)) == 0
    assert is_equal(tmp_path, study.whole("supervised"))


def by_time(self: Checkpoints) -> list[Path]:
    found = [path for path in self.folder.iterdir() if path.name.isdigit()] if self.folder.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def written_by(folder: Path) -> None:
    """Hold a run folder's lock until someone ends us, and note it."""
    while not (folder / "go").exists():
        time.sleep(0.001)
    with lock.acquire(folder):
        with open(folder / "writers", "a") as stream:
            stream.write("x")
        time.sleep(60)


def without_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "refuse_held", nothing)
    not_exclusive(monkeypatch)


def race(folder: Path) -> tuple[int, int]:
    """Start eight writers of one folder at once; return how many proceed and how many are refused."""
    folder.mkdir(exist_ok=True)
    left, refused = [forked(lambda: written_by(folder)) for _ in range(8)], 0
    (folder / "go").touch()
    while len(left) > (held := len((folder / "writers").read_text()) if (folder / "writers").exists() else 0):
        for child in list(left):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                left.remove(child)
                refused += os.waitstatus_to_exitcode(status) == REFUSED
        time.sleep(0.01)
    for child in left:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return held, refused


@fault("R10", "S02", **{"the-lock": without_lock})
def test_of_eight_writers_of_one_run_folder_one_proceeds(tmp_path: Path, record_property: Any) -> None:
    """Again and again; the one that proceeds is then killed, and its lock dies with it."""
    rounds = amount(1, 50)
    for number in range(rounds):
        assert race(tmp_path / str(number)) == (1, 7)
    record_property("races of 8 processes", rounds)


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without the kernel's locks."""

    def refused(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", refused)


def not_exclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: who finds no lock creates it, slowly, as another may just be doing."""

    def linked(aside: str, path: Path) -> None:
        time.sleep(0.1)
        os.replace(aside, path)

    monkeypatch.setattr(os, "link", linked)


@fault("R16", **{"exclusive-creation": not_exclusive})
def test_without_flock_one_writer_proceeds(no_flock: None, tmp_path: Path, record_property: Any) -> None:
    """In new folders, and where a dead process left its name, which all of them see."""
    rounds = amount(2, 40)
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 2:
            (folder / lock.NAME).write_text(json.dumps(asdict(replace(lock.this_process(), pid=2**22 + 1))))
        assert race(folder) == (1, 7)
    record_property("races of 8 processes without flock", rounds)


@fault("R10", "R16", **{"the-proof-of-death": replaced("clipkd.core.lock.is_dead", lambda holder: True)})
def test_a_lock_is_broken_only_where_its_holder_is_dead(tmp_path: Path) -> None:
    here = lock.this_process()
    living = {
        "elsewhere": replace(here, host="elsewhere"),
        "another-start": replace(here, boot="another start", pid=2**22 + 1),
    }
    for name, holder in (living | {"dead": replace(here, pid=2**22 + 1)}).items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / lock.NAME).write_text(json.dumps(asdict(holder)))
        try:
            with lock.acquire(folder):
                assert name == "dead", "took over from a process that may live"
        except MachineError as error:
            assert name in living
            assert f"process {holder.pid} on {holder.host}" in str(error)


def unworded(_: object, error: Exception) -> None:
    """The mutant: the error goes on as it came."""
    raise error


@pytest.mark.parametrize(("at", "saved"), [(1, "nothing was saved yet"), (4, "it was last saved after step 3")])
@fault("R17", **{"our-words": replaced("clipkd.core.errors.LOST", ())})
def test_a_gpu_that_fails_is_told_with_the_last_save(at: int, saved: str, study: Study, tmp_path: Path) -> None:
    """The error that torch raises for it, in a step."""
    study.whole("supervised")
    real, left = loop.train_step, iter(range(at))

    def failing(*given: Any) -> None:
        if next(left) == at - 1:
            raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be")
        real(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", failing)
        try:
            study.train("supervised", tmp_path)
        except MachineError as error:
            assert f"{tmp_path}: cpu failed (CUDA error: uncorrectable ECC error encountered); {saved}" in str(error)
        except RuntimeError:
            pytest.fail("a traceback")
    study.train("supervised", tmp_path)
    assert is_equal(tmp_path, study.whole("supervised"))


def test_r17_a_mistake_of_the_program_keeps_its_traceback() -> None:
    for words in ("CUDA error: device-side assert triggered", "unspecified launch failure"):
        assert lost_device(RuntimeError(words)) == ""
    assert lost_device(RuntimeError("CUDA error: unspecified launch failure")) != ""


SECONDS = (0.0, 0.03, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 4.0)
"""After a verb's beginning."""


def raw(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: Python's own answer to Ctrl-C, in every process."""
    monkeypatch.setattr(sys.modules[__name__], "BEGIN", BEGIN.replace("run()", "cli.main()"))
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", (0.03, 0.1, 0.2, 0.4, 0.8, 1.2))


BEGIN = (
    "import sys; from clipkd.__main__ import run\n"
    "class cli:\n    def main():\n        from clipkd.cli import main\n        return main()\n"
    "print('begun', flush=True); sys.exit(run())"
)


@pytest.mark.slow
@fault("R18", **{"our-answer": raw})
def test_ctrl_c_at_any_moment_is_one_line(study: Study, tmp_path: Path) -> None:
    """To every process of the terminal, the fork server that is importing torch included."""
    study.whole("supervised")
    words = ["train", "--dataset-name", "digits", "--student", "tiny-32", "--train-type", "supervised", "--seed"]
    words += ["0", "1", "--processes", "2", "--data", str(study.layout.data), "--epochs", "200"]
    for number, after in enumerate(SECONDS if FULL else SECONDS[2:9:5]):
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, *words, "--log-folder", str(tmp_path / str(number))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 130, said
        assert "Traceback" not in said, said
        assert "Exception ignored" not in said, said
        assert said.count("stopped by SIGINT; run the same") + said.count("train: stopped\n") == 1, said


@fault("R07", **{"our-words": replaced("clipkd.runs.training.out_of_memory", unworded)})
def test_out_of_memory_is_told_with_the_batch_size(study: Study, tmp_path: Path) -> None:
    """A stand-in for the device's memory: both errors that torch raises for it, and numpy's."""
    study.whole("supervised")
    errors = (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 2 TiB"),
    )
    for number, error in enumerate(errors):

        def full(*_: Any, error: Exception = error) -> None:
            raise error

        patch = pytest.MonkeyPatch()
        patch.setattr(OneStudent, "__call__", full)
        try:
            study.train("supervised", tmp_path / str(number))
        except ClipkdError as found:
            assert "batch size 256: take a smaller --batch-size" in str(found)
        except RuntimeError as found:
            pytest.fail(f"a traceback: {found}")
        finally:
            patch.undo()


@fault(
    "R11", "C05", **{"looking-first": replaced("clipkd.runs.folder.RunFolder.finished", lambda self, identity: False)}
)
def test_the_same_run_twice_is_trained_once_and_has_the_same_bytes(study: Study, tmp_path: Path) -> None:
    whole = study.whole("supervised")

    def times() -> dict[str, int]:
        return {name: (whole / name).stat().st_mtime_ns for name in (*RESULTS, "manifest.json", "env.json")}

    before = times()
    study.train("supervised", whole)
    assert times() == before
    study.train("supervised", tmp_path)
    assert is_equal(tmp_path, whole)


def copied(study: Study, folder: Path) -> Study:
    """Return the study with data of its own, of which `vanilla` is prepared."""
    study.whole("vanilla")
    return Study(Path(shutil.copytree(study.layout.data, folder)), Path(study.teacher), study.root)


def classifier(study: Study) -> Path:
    """Return the file of the head that makes class scores for `vanilla`."""
    return study.layout.full_embeddings(study.cell("vanilla")).head()[0] / "weight.npy"


@pytest.mark.slow
@fault("R20", **{"the-look-at-inputs": replaced("clipkd.runs.job.Job.refuse_changed_inputs", nothing)})
def test_a_head_that_changes_during_a_training_stops_it_and_leaves_the_state_before(
    study: Study, tmp_path: Path
) -> None:
    """New times alone, as of a copy, change nothing."""
    mine, whole = copied(study, tmp_path / "data"), study.whole("vanilla")
    path = classifier(mine)
    before, content = path.stat(), path.read_bytes()

    def overwrite() -> None:
        path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert after_a_save(mine, tmp_path / "touched", path.touch) == 0
    assert is_equal(tmp_path / "touched", whole)
    assert after_a_save(mine, tmp_path / "run", overwrite) == REFUSED
    assert not (tmp_path / "run/metrics.json").exists()
    path.write_bytes(content)
    assert outcome(lambda: mine.train("vanilla", tmp_path / "run")) == 0
    assert is_equal(tmp_path / "run", whole)


@pytest.mark.slow
@fault("R20", **{"the-comparison": replaced("clipkd.runs.checkpointing.refuse_other_signal", nothing)})
def test_a_run_is_not_resumed_with_a_head_that_was_made_again(study: Study, tmp_path: Path) -> None:
    mine = copied(study, tmp_path / "data")
    folder = classifier(mine).parent
    assert after_a_save(mine, tmp_path / "run", die) == -signal.SIGKILL
    manifest = read_manifest(folder)
    np.save(folder / "weight.npy", np.load(folder / "weight.npy")[::-1])
    files = {name: entry_of(folder / name) for name in manifest["files"]}
    write_manifest(folder, manifest["kind"], manifest["identity"], manifest["facts"], files)
    assert outcome(lambda: mine.train("vanilla", tmp_path / "run")) == REFUSED
    shutil.rmtree(tmp_path / "run/.resume")
    assert outcome(lambda: mine.train("vanilla", tmp_path / "run")) == 0


def test_a_run_records_each_sitting_and_what_taught_it(study: Study, tmp_path: Path) -> None:
    mine = copied(study, tmp_path / "data")
    assert after_a_save(mine, tmp_path / "run", die) == -signal.SIGKILL
    assert outcome(lambda: mine.train("vanilla", tmp_path / "run")) == 0
    found = json.loads((tmp_path / "run/env.json").read_text())
    assert [(one["epoch"], one["step"], one["packages"]["torch"]) for one in found["sittings"]] == [
        (1, 0, torch.__version__),
        (1, 3, torch.__version__),
    ]
    found = read_manifest(tmp_path / "run")["facts"]["signal"]
    weights = read_manifest(mine.layout.teacher(mine.cell("vanilla").teacher_spec))["files"]["model.safetensors"]
    assert [(one["kind"], one["weights_sha256"]) for one in found] == [
        (kind, weights["sha256"]) for kind in ("head", "embeddings")
    ]
