"""The benchmarks: the peer computes what clipkd computes, and a run of them gives complete numbers."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, machine, precision, rounds, stack
from benchmarks.distillation import gflop
from benchmarks.material import Material
from benchmarks.peer import LibraryStudent, PlainStudent, loss_of
from clipkd.plugins import methods, recipes, students
from clipkd.plugins.students._vit import build_student

ROOT = Path(__file__).resolve().parents[2]
TYPES = ("embed-KD", "teacher-KD", "vanilla")


@pytest.mark.parametrize("train_type", TYPES)
def test_the_peer_and_clipkd_compute_the_same_step(train_type: str) -> None:
    """Equal losses and gradients: else their times would not compare."""
    torch.manual_seed(0)
    recipe, spec = recipes.get("reference"), students.get("tiny-32")
    ours = build_student(spec, 10, 24, recipe).double().eval()
    peer = PlainStudent(spec, 10, 24).double().eval()
    peer.load_state_dict(ours.state_dict())
    images, labels = torch.randn(6, 3, 32, 32).double(), torch.tensor([0, 1, 2, 3, 3, 9])
    shape = {"embed-KD": (10, 24), "teacher-KD": (6, 24), "vanilla": (6, 10)}[train_type]
    signal = torch.randn(shape).double()

    theirs = loss_of(peer, images, labels, train_type, signal)
    mine = methods.get(train_type).loss(ours, ours(images), labels, signal, recipe)["loss"]
    assert theirs.item() == pytest.approx(mine.item(), rel=1e-12)
    theirs.backward()
    mine.backward()
    wanted = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    found = {name: parameter.grad for name, parameter in peer.named_parameters() if parameter.grad is not None}
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)

    other = loss_of(peer, images.flip(-1), labels, train_type, signal)
    assert other.item() != pytest.approx(mine.item(), rel=1e-12), "another input must show"


def busy(seconds: float, ready, done) -> None:
    while time.process_time() < seconds:
        pass
    ready.set()
    done.wait(30)


def test_seconds_of_a_child_count_while_it_runs() -> None:
    """A loader whose workers are started once is as dear as one that starts them anew."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    before = rounds.cpu_seconds()
    child = context.Process(target=busy, args=(0.5, ready, done))
    child.start()
    assert ready.wait(60)
    found = rounds.cpu_seconds() - before
    done.set()
    child.join()
    assert found >= 0.4
    assert rounds.running_seconds(child.pid) == 0, "one that has ended is counted with the ended"


def test_a_short_contender_is_timed_without_its_first_run_after_a_long_one() -> None:
    """Which finds the processor's caches and the freed memory as the long one leaves them."""
    order: list[str] = []

    def short() -> None:
        time.sleep(0.01 if order[-1:] == ["short"] else 0.3)
        order.append("short")

    times = rounds.interleaved({"short": short, "long": lambda: order.append("long")}, 2, {"short": 3})
    assert order == ["short", "long", *(["short"] * 4 + ["long"]) * 2]
    assert max(times["short"].wall) < 0.1
    assert len(times["short"].wall) == 2


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_library_student_has_the_size_and_heads_of_the_plain_one(library: str) -> None:
    spec = students.get("tiny-32")
    plain, other = (kind.eval() for kind in (PlainStudent(spec, 10, 24), LibraryStudent(library, spec, 10, 24)))
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 3, 3, 9])
    for mine, theirs in zip(plain(images), other(images), strict=True):
        assert mine.shape == theirs.shape
    loss_of(other, images, labels, "embed-KD", torch.randn(10, 24)).backward()
    sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in (plain, other)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02), "biases, a class token and norms apart"


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: {model}
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu avx2 fma avx512f avx512_bf16

processor\t: 1
"""


def test_processors_of_one_name_have_records_of_their_own(tmp_path: Path) -> None:
    device, names = {"name": "AMD EPYC", "kind": "cpu"}, []
    for model in (1, 17):
        (tmp_path / "cpuinfo").write_text(CPUINFO.format(model=model))
        found = machine.processor(tmp_path / "cpuinfo")
        assert found["flags"] == ["avx2", "fma", "avx512f", "avx512_bf16"]
        names.append(machine.record_name({"device": device, "processor": found}))
    assert names == ["amd-epyc-family-25-model-1", "amd-epyc-family-25-model-17"]
    assert machine.record_name({"device": {"name": "NVIDIA H200", "kind": "cuda"}, "processor": found}) == "nvidia-h200"
    assert machine.processor(tmp_path / "none") == {}


def test_operations_of_the_base_student() -> None:
    """The published protocol's student takes 1.92 GFLOP a training image."""
    assert gflop(students.get("base-32")) == pytest.approx(1.92, abs=0.01)


@pytest.mark.long
def test_a_run_gives_every_number(tmp_path: Path) -> None:
    output = tmp_path / "cpu.json"
    output.write_text(json.dumps({"precision": {"kept": True}}))
    names = ["products", "distillation", "teacher_cost", "grid", "stack", "data_path"]
    small = ["--teacher", "toy", "--student", "tiny-32", "--batch-size", "32", "--steps", "1", "--rounds", "1"]
    command = [sys.executable, "-m", "benchmarks", *names, *small, "--stack-on-cpu"]
    subprocess.run([*command, "--device", "cpu", "--output", str(output)], check=True, cwd=ROOT, capture_output=True)
    result = json.loads(output.read_text())
    assert result.pop("precision") == {"kept": True}, "what was not asked for stays as it was measured"
    for part in result.values():
        assert {"date", "command", "machine", "matrix_peak_gflops"} <= part.keys()
    for train_type in TYPES:
        for name, entry in result["distillation"][train_type].items():
            assert all(value > 0 for value in entry.values()), (train_type, name)
        assert {"clipkd, cached", "peer"} <= result["distillation"][train_type].keys()
    assert {"timm", "transformers"} <= result["distillation"]["embed-KD"].keys()
    products = result["products"]["products"]
    assert len(products) == 12
    assert all(entry["onednn"] > 0 for entry in products.values())
    # A live teacher costs: else the benchmark would compare a contender with itself.
    assert result["distillation"]["teacher-KD"]["clipkd, live"]["cpu_ratio"] > 1.2
    assert result["teacher_cost"]["passes"] == 2 * 96 + 12
    assert result["teacher_cost"]["bytes_per_view"] == 32 * 2
    assert result["grid"]["wall_ratio"] > 0
    assert result["data_path"]["clipkd, in memory"]["images_per_cpu_s"] > 0
    assert result["stack"]["epochs"].keys() == {
        "peer", *(f"clipkd, {name}, {size}" for name in ("fp32", "bf16") for size in ("one", "8 at once"))
    }  # fmt: skip
    for entry in result["stack"]["epochs"].values():
        assert entry["peak_memory_bytes"] is None
        assert min(entry["seconds_per_epoch"], entry["ratio"]) > 0


@pytest.mark.long
def test_a_session_on_a_gpu_saves_each_part_as_it_ends(tmp_path: Path) -> None:
    """With a small student on a CPU; a part that fails does not cost the others."""
    output = tmp_path / "tiny.json"
    parts = ["epochs", "streams", "peak", "preparation"]
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--output", str(output), *parts]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    part = json.loads(output.read_text())["gpu"]
    assert (part["failed"], part["not_begun"]) == ({}, [])
    assert part["seconds_per_epoch"].keys() == {
        f"{name}, {size}" for name in ("fp32", "tf32", "bf16") for size in ("one", "2 at once")
    }
    assert part["ms_per_step_and_student"].keys() == {"stack", "streams"}
    assert part["batches_seconds_per_epoch"].keys() == {
        f"{recipe}, {how}"
        for recipe in ("reference", "modern-crop", "modern-full")
        for how in ("together", "one by one")
    }
    late = [*command[: -len(parts)], "--minutes", "0"]
    subprocess.run(late, check=True, cwd=ROOT, capture_output=True)
    again = json.loads(output.read_text())["gpu"]
    assert again["not_begun"] == list(gpu.PARTS)
    assert again["peak_tflops"] == part["peak_tflops"]


def test_what_fails_in_a_session_is_kept_beside_what_was_measured(tmp_path: Path, monkeypatch) -> None:
    output = tmp_path / "tiny.json"

    def fails(session):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(gpu, "PARTS", {"peak": gpu.peak, "streams": fails, "again": lambda session: {"more": 1}})
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--output", str(output)])
    assert gpu.main() == 1
    part = json.loads(output.read_text())["gpu"]
    assert "out of luck" in part["failed"]["streams"]
    assert part["more"] == 1
    assert part["peak_tflops"].keys() == set(gpu.FORMATS)


def test_without_a_gpu_the_stack_is_not_measured(tmp_path: Path) -> None:
    options = SimpleNamespace(stack_on_cpu=False)
    assert "not_measured" in stack.measure(Material(tmp_path), options, torch.device("cpu"))


@pytest.mark.long
def test_accuracy_is_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    formats = {"fp32": [90.0, 80.0, 70.0], "bf16": [91.0, 80.0, 72.0]}
    assert precision.differences({"a": formats}) == {"a": {"mean": 1.0, "deviation": 1.0}}
    monkeypatch.setattr(precision, "TYPES", ("supervised",))
    options = SimpleNamespace(precision_seeds=2, precision_epochs=1)
    found = precision.measure(Material(tmp_path), options, torch.device("cpu"))
    reached = found["top1"]["supervised"]
    assert [len(reached[name]) for name in ("fp32", "bf16")] == [2, 2]
    assert all(0 < top1 < 100 for formats in reached.values() for top1 in formats)
