"""Several students by one command, each in a process of its own: to the bit what each is alone."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipkd.cli import parser
from clipkd.cli.verbs import train as train_verb
from clipkd.cli.verbs.train import cells_of
from clipkd.core import lock
from clipkd.core.errors import ClipkdError, InputError, MachineError
from clipkd.runs import workers
from clipkd.runs.workers import Pool
from tests import warm

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
RESULTS = ("metrics.json", "history.csv", "student.safetensors")
PLACE = "corrected/digits/tiny-32/none/supervised"


def command(data: Path, folder: Path, *flags) -> list[str]:
    cell = ["--dataset-name", "digits", "--student", "tiny-32", "--log-folder", folder, "--data", data]
    numbers = ["--epochs", 2, "--batch-size", 256, "--learning-rate", 1e-3, "--device", "cpu", "--threads", 1]
    defaults = ["--train-type", "supervised"]
    return [str(warm.command()), *map(str, ["train", *cell, *numbers, *defaults, *flags])]


DIVERGES = ("--learning-rate", 10, "--weight-decay", 10, "--recipe", "reference", "--epochs", 3)
"""Each step multiplies the weights by 1 - 10 * 10: float32 ends after some twenty."""


def train(*arguments, check: bool = True) -> subprocess.CompletedProcess:
    return warm.clipkd(*command(*arguments)[1:], check=check)


@pytest.fixture(scope="module")
def several(digits_folder, tmp_path_factory) -> tuple[Path, str]:
    """Three seeds in two processes at a time, and what was said."""
    folder = tmp_path_factory.mktemp("several")
    answer = train(digits_folder, folder, "--seed", 0, 1, 2, "--processes", 2)
    assert answer.stdout.split() == [str(folder / PLACE / f"seed{seed}") for seed in range(3)]
    return folder, answer.stderr


def test_each_student_is_the_one_trained_alone(several, digits_folder, tmp_path):
    folder, said = several
    train(digits_folder, tmp_path, "--seed", 1)
    for name in RESULTS:
        assert (folder / PLACE / "seed1" / name).read_bytes() == (tmp_path / name).read_bytes(), name
        assert (folder / PLACE / "seed0" / name).read_bytes() != (tmp_path / name).read_bytes(), name
    for seed in range(3):
        assert f"{PLACE}/seed{seed}: epoch 1/2: train loss" in said


def test_a_seed_that_is_added_later_is_the_only_one_trained(several, digits_folder):
    folder, _ = several
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name in RESULTS}
    answer = train(digits_folder, folder, "--seed", 0, 1, 2, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert answer.stderr.count("nothing to do") == 3
    assert (folder / PLACE / "seed3/metrics.json").exists()


@pytest.mark.slow
def test_one_that_fails_stops_no_other_and_is_named(digits_folder, tmp_path):
    blocked = tmp_path / PLACE / "seed1/metrics.json"
    blocked.mkdir(parents=True)  # where a file has to be written
    answer = train(digits_folder, tmp_path, "--seed", 0, 1, 2, check=False)
    assert answer.returncode == 4
    assert "1 of 3 students failed; the other 2 are complete:" in answer.stderr
    assert f"  {PLACE}/seed1: {blocked}: Is a directory" in answer.stderr
    assert all((tmp_path / PLACE / f"seed{seed}/metrics.json").is_file() for seed in (0, 2))

    answer = train(digits_folder, tmp_path / "rate", "--seed", 0, 1, *DIVERGES, check=False)
    assert answer.returncode == 3
    assert "2 of 2 students failed:" in answer.stderr
    assert f"{PLACE.replace('corrected', 'reference')}/seed1: loss or gradient is not finite" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_one_whose_process_dies_stops_no_other(digits_folder, tmp_path):
    process, trainers = started(digits_folder, tmp_path, epochs=8)
    os.kill(trainers[0], signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 4
    assert f"{PLACE}/seed0: its process was killed by SIGKILL; if memory ran out, take fewer --processes" in said
    assert (tmp_path / PLACE / "seed1/metrics.json").exists()


def started(data: Path, folder: Path, *flags, epochs: int = 500) -> tuple[subprocess.Popen, list[int]]:
    """Start a long training of two seeds at once; return it and the processes that train."""
    process = subprocess.Popen(
        command(data, folder, "--seed", 0, 1, "--processes", 2, "--epochs", epochs, *flags),
        stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    seen: set[str] = set()
    for line in process.stderr:
        seen |= {seed for seed in ("seed0", "seed1") if f"{seed}: epoch 1/" in line}
        if len(seen) == 2:
            break
    return process, [lock.named_in(lock.newest(folder / PLACE / seed)).pid for seed in sorted(seen)]


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Return whether a process ends within some time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.long), (signal.SIGKILL, -9)],
)
def test_a_signal_reaches_every_student_and_saves_it(number, code, digits_folder, tmp_path):
    """Killed itself, the command can hand nothing on: its processes notice that it is gone."""
    process, trainers = started(digits_folder, tmp_path)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert all(gone(pid) for pid in trainers)
    assert "Traceback" not in said
    for seed in ("seed0", "seed1"):
        assert list((tmp_path / PLACE / seed / ".resume").glob("0*/manifest.json")), "saved"
        assert not (tmp_path / PLACE / seed / "metrics.json").exists()


def test_a_signal_to_one_student_alone_stops_all_that_has_not_begun(digits_folder, tmp_path):
    """`clipkd resume` sends it to whoever holds a run's lock."""
    process, trainers = started(digits_folder, tmp_path, "--seed", 0, 1, 2)
    for pid in trainers:
        os.kill(pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert "run the same command to resume" in said
    assert not lock.all_of(tmp_path / PLACE / "seed2")


def test_a_signal_after_the_last_step_of_a_stack_stops_the_next(digits_folder, tmp_path):
    slow = (
        "import os, signal, sys; from clipkd.runs.folder import RunFolder; finish = RunFolder.finish; "
        "RunFolder.finish = lambda *given: (os.kill(os.getpid(), signal.SIGTERM), finish(*given)); "
        "from clipkd.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    flags = command(digits_folder, tmp_path, "--seed", 0, 1, "--processes", 1)[1:]
    done = subprocess.run([warm.python(), "-c", slow, *flags], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 143, done.stderr
    assert "stopped by SIGTERM; run the same command to train the remaining students" in done.stderr
    assert (tmp_path / PLACE / "seed0/metrics.json").exists()
    assert not lock.all_of(tmp_path / PLACE / "seed1")


CUT = """
import os, signal, sys
from clipkd.embeddings import prepare
prepare.for_training = lambda *_: {cut}
from clipkd.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 75)])
def test_a_signal_before_a_stack_stops_all_of_it(name, code, digits_folder, tmp_path):
    cut = CUT.format(cut=f"os.kill(os.getpid(), signal.{name})")
    flags = command(digits_folder, tmp_path, "--seed", 0, 1, "--stack", 2)[1:]
    done = subprocess.run([warm.python(), "-c", cut, *flags], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert f"stopped by {name}" in done.stderr
    assert "failed" not in done.stderr
    assert not list(tmp_path.rglob("metrics.json"))


def ends(assignments, threads):
    os.kill(os.getpid(), signal.SIGKILL)


def test_when_the_preparation_fails_no_student_is_called_complete(monkeypatch):
    monkeypatch.setattr(workers, "prepare", ends)
    one = SimpleNamespace(name="one")
    with pytest.raises(ClipkdError, match=r"no student was trained.* killed by SIGKILL") as raised:
        workers.train_in_processes([one, one], 2, 1)
    assert "--processes" not in str(raised.value)
    assert raised.value.exit_code == MachineError.exit_code


@pytest.mark.long
def test_a_stack_by_the_command_line(digits_folder, tmp_path):
    answer = train(digits_folder, tmp_path, "--seed", 0, 1, "--recipe", "reference", "corrected", "--stack", 2)
    assert answer.stderr.count("2 students side by side, from epoch 1, step 0") == 2, "a stack has one recipe"
    assert len(answer.stdout.split()) == 4


def options(*flags):
    return parser().parse_args(["train", "--dataset-name", "digits", *flags])


def test_the_cells_are_the_product_of_the_values(vit_folder):
    chosen = options("--train-type", "supervised", "embed-KD", "--seed", "0", "1", "--teacher-model", str(vit_folder),
                     "digits-vit-s", "--recipe", "reference", "corrected")  # fmt: skip
    cells = cells_of(chosen)
    # supervised has no teacher: 2 recipes x 2 seeds, and 2 x 2 x 2 teachers of embed-KD.
    assert len(cells) == len({cell.folder for cell in cells}) == 4 + 8
    assert len(cells_of(options("--train-type", "supervised", "--seed", "3", "3"))) == 1


@pytest.mark.parametrize(
    ("flags", "unused"),
    [
        (["supervised", "--teacher-model", "digits-vit-s"], True),
        (["supervised", "vanilla", "--teacher-model", "digits-vit-s"], False),
        (["supervised"], False),
        (["supervised", "--teacher-model", "digits-vit-s", "--stamp", "stamp"], False),  # a workflow's job
    ],
)
def test_a_teacher_that_no_train_type_uses_is_named(flags, unused, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_verb, "train_all", lambda *_: None)
    monkeypatch.setattr(train_verb.stamps, "write", lambda *_: None)
    train_verb.run(options("--student", "tiny-32", "--train-type", *flags))
    said = "none of the train types uses a teacher, so --teacher-model digits-vit-s is not used"
    assert (said in capsys.readouterr().err) == unused


def test_two_combinations_are_never_one_run():
    """A name of one's own hides the values that differ."""
    recipes = ["fast=corrected?learning_rate=1e-3", "fast=corrected?learning_rate=1e-2"]
    with pytest.raises(InputError, match=r"fast/digits/.*learning_rate=0.001 and fast=.*=0.01 recipes: give each"):
        cells_of(options("--train-type", "supervised", "--recipe", *recipes))
    same = options("--train-type", "supervised", "--recipe", recipes[0], recipes[0].replace("1e-3", "0.001"))
    assert len(cells_of(same)) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--ckpt-save-name", "elsewhere/a.pt"), "several students can't share a file"),
        (("--stack", "2", "--processes", "2"), "can't be combined"),
    ],
)
def test_what_can_not_be_is_refused(flags, said):
    chosen = options("--train-type", "supervised", "--seed", "0", "1", *flags)
    with pytest.raises(InputError, match=said):
        chosen.run(chosen)


@pytest.mark.long
def test_ctrl_c_that_a_beginning_process_did_not_hear_is_sent_again() -> None:
    """Processes begin deaf to it, as their fork server is."""
    with Pool() as pool:
        threading.Timer(1.0, lambda: setattr(pool, "signal", signal.SIGINT)).start()  # sent to nobody
        start = time.monotonic()
        pool.run([("one", time.sleep, (600,))], 1)
    assert pool.failures["one"].exit_code == 130
    assert time.monotonic() - start < 300


def test_ctrl_c_while_the_fork_server_starts_is_heard(monkeypatch) -> None:
    """It was ignored for this moment, and the training went on."""

    def pressed() -> None:
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "the server is to be deaf"
        os.kill(os.getpid(), signal.SIGINT)  # another thread may hear it at once: then it is not held back

    monkeypatch.setattr(workers.forkserver, "ensure_running", pressed)
    with pytest.raises(KeyboardInterrupt):
        workers.start_server()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
