"""bf16: which operations are in it, which are not, how far the results are, and when `auto` takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from clipkd.cli import main
from clipkd.core import processor
from clipkd.core.device import products
from clipkd.core.errors import InputError
from clipkd.embeddings.teacher import Teacher, load
from clipkd.plugins import methods, recipes, students, teachers
from clipkd.plugins.students import StudentSpec
from clipkd.plugins.students._vit import Student, build_student
from clipkd.runs import precision
from clipkd.runs.precision import autocast, resolved, rest
from clipkd.runs.stack import Stack
from clipkd.spec.settings import Hyperparameters

CPU = torch.device("cpu")
SPEC = StudentSpec("toy", 16, 4, 32, 2, 4)
TIMM = students.get("timm:mobilenetv3_small_100@32")
PRODUCTS = {"aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten.linear", "aten.mkldnn_linear"}
FLOAT32 = {"aten.native_layer_norm", "aten._softmax", "aten._log_softmax", "aten.nll_loss_forward", "aten.exp"}


class Formats(TorchDispatchMode):
    """Notes the number formats that each operation read and made."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, set[torch.dtype]] = {}
        self.made: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        name = str(function).rpartition(".")[0]
        for kept, values in ((self.read, arguments), (self.made, result if isinstance(result, tuple) else (result,))):
            dtypes = {value.dtype for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()}
            kept.setdefault(name, set()).update(dtypes)
        return result


def student_and_batch() -> tuple[Student, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    student = build_student(SPEC, 5, 24, recipes.get("corrected"))
    return student, torch.randn(8, 3, 16, 16), torch.arange(8) % 5, torch.randn(5, 24)


def loss_of(student: Student, images, labels, prototypes, asked: str) -> torch.Tensor:
    student.generators = [torch.Generator().manual_seed(0)]
    with autocast(asked, CPU):  # type: ignore[arg-type]
        outputs = student(images)
    recipe = recipes.get("corrected")
    return methods.get("embed-KD").loss(student, outputs, labels, prototypes, recipe)["loss"]


@pytest.mark.parametrize("stacked", [False, True])
def test_products_are_bfloat16_and_everything_else_float32(stacked: bool) -> None:
    student, images, labels, prototypes = student_and_batch()
    with Formats() as formats, autocast("bf16", CPU):
        outputs = Stack([student, student_and_batch()[0]])([images, images])[0] if stacked else student(images)
        assert {outputs.embedding.dtype, outputs.logits.dtype} == {torch.float32}
    products = PRODUCTS & formats.read.keys()
    assert products
    assert set.union(*(formats.read[name] for name in products)) == {torch.bfloat16}
    # The loss is computed outside of the context.
    with formats:
        loss = methods.get("embed-KD").loss(student, outputs, labels, prototypes, recipes.get("corrected"))["loss"]
    assert loss.dtype == torch.float32
    for name in FLOAT32 & formats.made.keys():
        assert formats.made[name] == {torch.float32}, name
    assert {"aten.native_layer_norm", "aten._softmax"} <= formats.made.keys()
    loss.backward()
    assert {value.grad.dtype for value in student.parameters() if value.grad is not None} <= {torch.float32}


def test_bfloat16_gradients_are_near_float32s() -> None:
    found = {}
    for asked in ("fp32", "bf16"):
        student, *batch = student_and_batch()
        loss_of(student, *batch, asked).backward()
        found[asked] = torch.cat([value.grad.flatten() for value in student.parameters() if value.grad is not None])
    # bfloat16 keeps 8 bits: an error of a few thousandths a product, far from another direction.
    assert F.cosine_similarity(found["fp32"], found["bf16"], dim=0) > 0.999
    error = (found["fp32"] - found["bf16"]).norm() / found["fp32"].norm()
    assert 1e-4 < error < 0.05, "neither the same numbers nor others"


def test_what_auto_stands_for(monkeypatch) -> None:
    for gain, wanted in ((0.11, "fp32"), (1.2, "fp32"), (2.0, "bf16")):
        monkeypatch.setattr(precision, "cpu_gain", lambda gain=gain: gain)
        assert resolved("auto", CPU, SPEC) == wanted
        assert resolved("auto", CPU, TIMM) == "fp32", "its depthwise convolutions are slower in bfloat16"
        assert (resolved("fp32", CPU, SPEC), resolved("bf16", CPU, TIMM)) == ("fp32", "bf16")
    for supported, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, said=supported: said)
        assert resolved("auto", torch.device("cuda"), TIMM) == wanted


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_is_refused_where_it_is_not(capability, has, monkeypatch, vit_folder) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    cuda = torch.device("cuda")
    with nullcontext() if has else pytest.raises(InputError, match=r"this device \(cuda\) has no TF32"):
        assert resolved("tf32", cuda, SPEC) == "tf32"
    with pytest.raises(InputError, match=r"precision tf32: this device \(cpu\)"):
        resolved("tf32", CPU, SPEC)
    with pytest.raises(InputError, match=r"embeddings.precision tf32 .* this device \(cpu\)"):
        load(teachers.get(str(vit_folder)), vit_folder, CPU, "tf32")


@pytest.mark.parametrize(
    ("asked", "device", "wanted"),
    [("fp32", "cuda", "float32"), ("tf32", "cuda", "tf32"), ("bf16", "cuda", "tf32"), ("bf16", "cpu", "float32")],
)
def test_what_stays_float32_is_in_tf32_on_a_gpu(asked, device, wanted) -> None:
    """The live teacher is what the stored one was, whatever the student is trained in."""
    seen = []
    encoder = SimpleNamespace(
        embed=lambda inputs: seen.append(products()) or inputs, processor=SimpleNamespace(image_size=32)
    )
    teacher = Teacher(teachers.get("digits-vit-s"), encoder, CPU)
    with rest(asked, torch.device(device)):
        assert products() == wanted
        assert torch.backends.cudnn.allow_tf32 == (wanted == "tf32"), "convolutions too"
        teacher.embed(torch.zeros(1, 3, 32, 32))
        assert (seen, products()) == (["float32"], wanted)
    assert products() == "float32"


@pytest.fixture
def gains(tmp_path, monkeypatch) -> Iterator[list[float]]:
    """The gains of the next measurements, on a processor that is not remembered yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = [3.0, 1.0]
    monkeypatch.setattr(precision, "measured_gain", lambda: found.pop(0))
    precision.cpu_gain.cache_clear()
    yield found
    precision.cpu_gain.cache_clear()


def test_a_processor_is_measured_once(gains, monkeypatch) -> None:
    assert precision.cpu_gain() == 3.0
    precision.cpu_gain.cache_clear()
    assert precision.cpu_gain() == 3.0, "it is remembered for the next process"
    monkeypatch.setattr(torch, "__version__", "99.0")
    precision.cpu_gain.cache_clear()
    assert precision.cpu_gain() == 1.0, "another torch is measured anew"


def test_one_slow_round_changes_nothing(monkeypatch) -> None:
    took = iter([9.0, 9.0] + [1.0, 3.0, 3.0, 1.0] * 4 + [1.0, 3.0] + [3.0, 50.0])
    monkeypatch.setattr(processor, "seconds_of", lambda work: next(took))
    assert precision.measured_gain() == 3.0


def test_of_two_processes_that_measure_at_once_the_first_is_believed(gains, monkeypatch) -> None:
    def measured_beside_another() -> float:
        monkeypatch.setattr(precision, "measured_gain", lambda: 2.0)
        assert precision.cpu_gain() == 2.0
        return 1.5

    monkeypatch.setattr(precision, "measured_gain", measured_beside_another)
    assert precision.cpu_gain.__wrapped__() == 2.0


NO_MEMORY = ["", "[]", '{"bfloat16_gain": {"product": "much"}}', '{"bfloat16_gain": {"product": -1}}', "{}", None]


@pytest.mark.parametrize("content", NO_MEMORY)
def test_a_memory_that_says_nothing_is_no_memory(gains, content) -> None:
    path = processor.memory("bfloat16_gain", precision.MEASUREMENT)
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()  # can't be written either
    else:
        path.write_text(content)
    assert precision.cpu_gain() == 3.0


def test_the_measurement_is_of_this_machine() -> None:
    threads = torch.get_num_threads()
    assert precision.measured_gain(size=64, rounds=1) > 0
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_what_a_run_computed_in_is_a_part_of_what_it_is(digits_folder, tmp_path, monkeypatch) -> None:
    """By the command line: `auto` is written down as what it stood for, and another format is another run."""
    flags = ["train", "--data", str(digits_folder), "--dataset-name", "digits", "--student", "tiny-32", "--epochs", "1"]
    flags += ["--train-type", "supervised", "--batch-size", "512", "--learning-rate", "1e-3", "--device", "cpu"]
    flags += ["--threads", "1"]
    found, left = {}, []
    monkeypatch.setattr(precision, "float32_products", lambda kind, device: left.append(kind) or nullcontext())
    for gain, asked in ((0.1, "auto"), (2.0, "auto"), (0.1, "bf16")):
        monkeypatch.setattr(precision, "cpu_gain", lambda gain=gain: gain)
        folder = tmp_path / f"{gain}-{asked}"
        assert main([*flags, "--precision", asked, "--log-folder", str(folder)]) == 0
        found[gain, asked] = json.loads((folder / "metrics.json").read_text())
    told = [metrics["identity"]["training"]["precision"] for metrics in found.values()]
    assert told == ["fp32", "bf16", "bf16"]
    assert left == ["float32", "tf32", "tf32"], "of a GPU, for what stays float32 in the whole training"
    full, reduced, again = found.values()
    assert full["fingerprint"] != reduced["fingerprint"] == again["fingerprint"]
    assert full["last"]["test"]["loss"] != reduced["last"]["test"]["loss"] == again["last"]["test"]["loss"]
    assert full["last"]["test"]["loss"] == pytest.approx(reduced["last"]["test"]["loss"], rel=0.05)


@pytest.mark.parametrize(
    ("recipe", "wanted"), [("reference", "fp32"), ("reference?temperature=2", "fp32"), ("corrected", "bf16")]
)
def test_reference_is_float32_unless_another_format_is_named(recipe, wanted, monkeypatch) -> None:
    """By the config, where the identity of its runs then says fp32, and for whoever opens a training."""
    monkeypatch.setattr(precision, "cpu_gain", lambda: 2.0)
    spec = recipes.get(recipe)
    asked = Hyperparameters().of_recipe(spec).precision
    assert asked == ("auto" if wanted == "bf16" else "fp32")
    assert resolved(asked, CPU, SPEC) == wanted
    assert Hyperparameters(precision="bf16").of_recipe(spec).precision == "bf16"
    assert "float32_by_default" not in spec.switches(), "earlier runs keep their identity"
