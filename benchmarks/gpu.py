"""One measuring session on a GPU: `python -m benchmarks.gpu [--minutes 10] [part ...]`, or `make bench-gpu`.

Parts are in the order of what they are worth, and each is saved as it ends: a session that is cut off loses only those
that were left. No part begins once the time is up. Teachers are timm's ViTs with random weights: nothing is downloaded.
`--tiny` runs every part with a small student, on a CPU too, to see that the session works, not to measure.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.contenders import group_epoch, layout_of, run_of
from benchmarks.distillation import gflop
from benchmarks.machine import origin, record_name
from benchmarks.material import Material
from benchmarks.rounds import matrix_peak, settled
from clipkd.core import device as devices
from clipkd.core.device import float32_products
from clipkd.core.files import read_json, write_json
from clipkd.data import batches
from clipkd.embeddings import prepare
from clipkd.embeddings.teacher import load
from clipkd.plugins import students, teachers
from clipkd.plugins.students._vit import Student
from clipkd.runs.evaluation import score, sums_of_runs
from clipkd.runs.job import open_job
from clipkd.runs.loop import Group, train_step
from clipkd.runs.precision import autocast
from clipkd.runs.run import Run
from clipkd.runs.stack import Stack
from clipkd.spec.cells import Cell
from clipkd.spec.settings import Hyperparameters, StudentPrecision, TeacherPrecision

CIFAR, BATCH_SIZE = 50_000, 64
TOGETHER = 8
"""Students that the workflow computes at once by default."""
FORMATS: dict[str, StudentPrecision] = {"fp32": "fp32", "tf32": "fp32", "bf16": "bf16"}
TEACHER_FORMATS: dict[str, TeacherPrecision] = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16"}
DEFAULT = f"fp32, {TOGETHER} at once"
"""What `snakemake` does on a GPU for recipe reference without another word. (Other recipes: bf16.)"""
TEACHERS = {"vit_base_patch16_224": 35.13, "vit_large_patch16_224": 123.11}
"""timm's name -> GFLOP of a forward pass (docs/paper-grid.md)."""
TINY_TEACHERS = {"vit_tiny_patch16_224": 2.5}


class TimmMaterial(Material):
    """Datasets, and a teacher of timm with random weights."""

    @property
    def teacher_folder(self) -> str:
        """The teacher's name on the command line; its weights are made at first use."""
        return timm_teacher(self.folder, self.teacher)


def timm_teacher(folder: Path, model: str) -> str:
    """Return the name of a timm model with random weights in a file."""
    from clipkd.core.vision import torchvision  # noqa: F401  (timm imports it: it must work first)

    import timm  # isort: skip
    from safetensors.torch import save_file

    path = folder / f"{model}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save_file(timm.create_model(model, pretrained=False).state_dict(), path)
    return f"timm:{model}?pretrained={path}"


@dataclass
class Session:
    """What the parts work with."""

    material: TimmMaterial
    device: torch.device
    student: str
    images: int
    """Of an epoch; seconds are scaled to CIFAR's."""
    together: int
    teachers: dict[str, float]

    @property
    def gflop(self) -> float:
        """Operations of a training image."""
        return gflop(students.get(self.student))


def products_in(name: str) -> AbstractContextManager:
    """Let what stays float32 be TF32 on a GPU, unless the format is fp32, as in a training."""
    return float32_products("float32" if name == "fp32" else "tf32", devices.choose("auto"))


def seconds_of(work: Callable[[], object], rounds: int = 3) -> float:
    """Return the median seconds of work, after one call to warm up."""
    taken = []
    for _ in range(rounds + 1):
        settled()
        start = time.perf_counter()
        work()
        settled()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def gpu_tests(session: Session) -> dict[str, Any]:
    """Run the tests that need a GPU, where pytest is installed."""
    if find_spec("pytest") is None:
        return {"tests": {"not_run": "pytest is not installed"}}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=180)
    return {"tests": {"exit_code": answer.returncode, "end": (answer.stdout + answer.stderr)[-1500:]}}


def epochs(session: Session) -> dict[str, Any]:
    """Measure seconds per epoch of CIFAR and student, one alone and several at once, in each format."""
    dataset, found, speed = session.material.dataset(session.images), {}, {}
    for size in (session.together, 1):
        for name, precision in FORMATS.items():
            with products_in(name):
                work = group_epoch(
                    session.material, dataset, session.student, "embed-KD", BATCH_SIZE, session.device, size, precision
                )
                seconds = seconds_of(work, 2) / size
            label = f"{name}, {f'{size} at once' if size > 1 else 'one'}"
            found[label] = round(seconds * CIFAR / session.images, 4)
            speed[label] = round(session.images * session.gflop / seconds / 1e3, 3)
    default = speed.get(DEFAULT, next(iter(speed.values())))
    return {"seconds_per_epoch": found, "students": {"default": default} | speed}


def peak(session: Session) -> dict[str, Any]:
    """Measure torch's own matrix product, in TFLOP/s."""
    found = {}
    for name in FORMATS:
        kind = torch.bfloat16 if name == "bf16" else torch.float32
        with products_in(name):
            size = 4096 if session.device.type == "cuda" else 256
            found[name] = round(matrix_peak(session.device, size, dtype=kind) / 1e3, 3)
    return {"peak_tflops": found}


def runs_of(session: Session, count: int, folder: str, recipe: str = "reference") -> list[Run]:
    """Return so many runs of embed-KD in bf16, which see the same images."""
    layout, dataset = layout_of(session.material), session.material.dataset(session.images)
    numbers = Hyperparameters(batch_size=BATCH_SIZE, precision="bf16")
    runs: list[Run] = []
    for seed in range(count):
        cell = Cell(recipe, dataset, session.student, session.material.teacher_folder, "embed-KD", seed)
        prepare.for_training(cell, layout, session.device, BATCH_SIZE)
        place = session.material.folder / f"runs/{folder}-{seed}"
        runs.append(run_of(open_job(cell, numbers, layout, session.device), place, runs[0] if runs else None))
    return runs


def streams(session: Session) -> dict[str, Any]:
    """Measure students at once: a stack, and each with its own graph on its own stream; ms per step and student."""
    found = {}
    for how in ("stack", "streams"):
        runs = runs_of(session, session.together, how)
        first = [next(iter(run.rest_of_epoch())) for run in runs]
        groups = [Group(runs)] if how == "stack" else [Group([run]) for run in runs]
        parts = [first] if how == "stack" else [[batch] for batch in first]
        of_each = [torch.cuda.Stream() if session.device.type == "cuda" else None for _ in groups]

        def work(groups=groups, parts=parts, of_each=of_each) -> None:
            for group, part, stream in zip(groups, parts, of_each, strict=True):
                with torch.cuda.stream(stream):
                    train_step(group, part)

        settled()  # what was made on the default stream is there for the others
        for _ in range(5):  # warms up, and captures
            work()
        steps = 100 if session.device.type == "cuda" else 1

        def several(work=work, steps=steps) -> None:
            for _ in range(steps):
                work()

        found[how] = round(1e3 * seconds_of(several) / steps / len(runs), 4)
    return {"ms_per_step_and_student": found, "at_once": session.together}


def preparation(session: Session) -> dict[str, Any]:
    """Measure the making of an epoch's batches without a step, several at once and one by one; seconds per epoch."""
    found, pixels = {}, batches.PREPARED
    try:
        for recipe in ("reference", "modern-crop", "modern-full"):
            (run,) = runs_of(session, 1, f"preparation-{recipe}", recipe)
            for how, most in (("together", pixels), ("one by one", 0)):
                batches.PREPARED = most
                seconds = seconds_of(lambda: deque(run.rest_of_epoch(), maxlen=0))  # noqa: B023  (called at once)
                found[f"{recipe}, {how}"] = round(seconds * CIFAR / session.images, 4)
    finally:
        batches.PREPARED = pixels
    return {"batches_seconds_per_epoch": found}


def evaluation(session: Session) -> dict[str, Any]:
    """Measure the evaluation of 10,000 images after an epoch, seconds per student: one alone and several at once."""
    runs = runs_of(session, session.together, "evaluation")
    stack = Stack([cast(Student, run.student) for run in runs])
    share, found = 10_000 / len(runs[0].job.dataset.test_labels), {}
    for name, precision in FORMATS.items():
        with products_in(name), autocast(precision, session.device):
            found[f"{name}, one"] = round(seconds_of(lambda: score(runs[0], "test")) * share, 4)
            seconds = seconds_of(lambda: sums_of_runs(runs, stack, "test"))
            found[f"{name}, {len(runs)} at once"] = round(seconds * share / len(runs), 4)
    return {"seconds_per_10k": found}


def extraction(session: Session) -> dict[str, Any]:
    """Measure teachers' forward passes: images per second, and TFLOP/s of each teacher at its best."""
    layout, cpu = layout_of(session.material), torch.device("cpu")
    images, speed = {}, {}
    size = 256 if session.device.type == "cuda" else 2
    for model, work in session.teachers.items():
        spec = teachers.get(timm_teacher(session.material.folder, model))
        prepare.teacher(spec, layout, cpu)
        pixels = torch.randn(size, 3, 224, 224, device=session.device)
        for name, precision in TEACHER_FORMATS.items():
            if precision == "tf32" and not devices.has_tf32(session.device):
                continue
            teacher = load(spec, layout.teacher(spec), session.device, precision)
            seconds = seconds_of(lambda: teacher.embed(pixels))  # noqa: B023  (called at once)
            images[f"{model}, {name}"] = round(size / seconds, 1)
            if name == "fp32":  # what `embeddings.precision` is by default
                speed[model] = round(size * work / seconds / 1e3, 3)
    return {"images_per_second": images, "teachers": speed}


PARTS: dict[str, Callable[[Session], dict[str, Any]]] = {
    "tests": gpu_tests,
    "epochs": epochs,
    "streams": streams,
    "peak": peak,
    "preparation": preparation,
    "evaluation": evaluation,
    "extraction": extraction,
}


def main() -> int:
    """Run the parts; return the exit code: 0 where none failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which (default: all, in this order)")
    parser.add_argument("--minutes", type=float, default=10, help="after which no part begins")
    parser.add_argument("--images", type=int, default=12_800, help="of an epoch; CIFAR's take as much longer")
    parser.add_argument("--tiny", action="store_true", help="a small student, on a CPU too; measures nothing")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/<GPU>.json)")
    options = parser.parse_args()
    device = devices.choose("cpu" if options.tiny and not torch.cuda.is_available() else "cuda")
    made = origin(device, "benchmarks.gpu")
    if options.tiny and options.output is None:
        parser.error("--tiny measures nothing: give --output, so that it is not taken for a record")
    path = options.output or Path(__file__).parent / "results" / f"{record_name(made['machine'])}.json"
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(options, Path(folder), device)
        record = read_json(path) if path.exists() else {}
        part = record["gpu"] = record.get("gpu", {}) | made | {"student": session.student, "images": session.images}
        part["failed"], part["not_begun"] = {}, []
        for name in options.parts or PARTS:
            if time.monotonic() - start > 60 * options.minutes:
                part["not_begun"].append(name)
                continue
            try:
                part |= PARTS[name](session)
            except Exception:  # the parts after it are worth having
                part["failed"][name] = traceback.format_exc()[-1500:]
            said = "failed" if name in part["failed"] else "measured"
            print(f"{name}: {said} after {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            write_json(path, record)
    write_json(path, record)
    print(path)
    return 1 if part["failed"] or part.get("tests", {}).get("exit_code", 0) not in (0, 5) else 0


def session_of(options: argparse.Namespace, folder: Path, device: torch.device) -> Session:
    """Return what is measured: base-32, or a small student with few images."""
    if options.tiny:
        return Session(TimmMaterial(folder, next(iter(TINY_TEACHERS))), device, "tiny-32", 128, 2, TINY_TEACHERS)
    return Session(TimmMaterial(folder, next(iter(TEACHERS))), device, "base-32", options.images, TOGETHER, TEACHERS)


if __name__ == "__main__":
    sys.exit(main())
