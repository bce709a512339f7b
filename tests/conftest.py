"""What several test files stand on: the packed digits and a small real teacher, made once per session."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipkd.core import registry
from clipkd.plugins import datasets
from clipkd.spec.layout import Layout
from tests import warm

SLOWEST = [
    "dvc",
    "workflow/test_stamps",
    "workflow/test_resume",
    "training",
    "docs",
    "workflow",
    "faults/test_training",
]
"""What takes longest comes first, so that no worker is left with it at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Heed Ctrl-C where a shell started the tests in the background without it: programs inherit what is ignored.

    The workers of pytest-xdist share one server of warm processes.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", None):
        os.environ[warm.SHARED] = str(warm.command().parent)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first. Each keeps its tests together, for the fixtures that they share.

    What stands on a whole finished grid is slow, whichever test asks for it first.
    """
    for item in items:
        if "finished_grid" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)

    def rank(item: pytest.Item) -> int:
        path = item.nodeid.removeprefix("tests/")
        return next((place for place, name in enumerate(SLOWEST) if path.startswith(name)), len(SLOWEST))

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is imported: torch and transformers alone are a million objects."""
    gc.collect()
    gc.freeze()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker that needs it makes, and every other one waits for."""
    parallel = factory.getbasetemp().name.startswith("popen-")
    root = factory.getbasetemp().parent if parallel else factory.getbasetemp()
    folder, complete = root / name, root / f"{name}.complete"
    with open(root / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            make(folder)
            complete.touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def known_processor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder that says of this processor that it gains nothing by bfloat16, and by oneDNN in two products.

    `precision: auto` is then fp32 in every test and in the processes that it starts, and both libraries multiply, on
    any machine.
    """
    import matplotlib

    from clipkd.core import linear
    from clipkd.core.files import write_json
    from clipkd.core.processor import memory
    from clipkd.runs import precision

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # its list of fonts takes seconds to make
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        path = memory("bfloat16_gain", precision.MEASUREMENT)
        write_json(path, {"bfloat16_gain": {"product": 1.0}})
        path = memory("onednn_gains", linear.MEASUREMENT)
        write_json(path, {"onednn_gains": {"output": 2.0, "input gradient": 1.0, "weight gradient": 2.0}})
        yield


@pytest.fixture(scope="module")
def mirrored_digits() -> Iterator[None]:
    """The digits trained as CIFAR is, half of them mirrored: each image then has two views, in this process."""
    known = registry.specs(datasets.__name__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(known, "digits", replace(known["digits"], augmentation="flip"))
        yield


@pytest.fixture(scope="session")
def finished_grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workflow in which Snakemake has run a grid of two students to its end."""
    from tests.workflow.test_workflow import MINI, copy_workflow, snakemake

    def make(folder: Path) -> None:
        (copy_workflow(folder) / "mini.yaml").write_text(MINI)
        answer = snakemake(folder, "--configfile", "mini.yaml")
        assert answer.returncode == 0, answer.stdout

    return made_once(tmp_path_factory, "finished-grid", make)


@pytest.fixture
def empty_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which figures are made, and what is done with them, is the same for empty ones, which take no time to draw."""
    from clipkd.report.figures import write
    from clipkd.report.figures.style import new_figure

    monkeypatch.setattr(write, "DRAW", dict.fromkeys(write.DRAW, lambda found, *what: new_figure(1, 1, "")))


@contextlib.contextmanager
def held(shared: Path) -> Iterator[None]:
    """Keep other workers from what they share, while one of them changes it."""
    with open(shared.with_name(f"{shared.name}.held"), "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """A data folder that holds the packed digits."""
    from clipkd.data.dataset import prepare_dataset

    data = tmp_path_factory.mktemp("digits") / "data"
    prepare_dataset(datasets.get("digits"), Layout(data).dataset(datasets.get("digits")))
    return data


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory) -> Path:
    """A headless Hugging Face ViT with random weights, as `save_pretrained` leaves it: 24 px, D = 16."""
    folder = tmp_path_factory.mktemp("teacher") / "toy-vit"
    save_vit(folder)
    return folder


def save_vit(folder: Path, classes: int | None = None, std: float | None = 0.3, **changes) -> None:
    """Save a small ViT, with a classifier where `classes` are given, and its image processor.

    Fresh weights are tiny; with `std`, their deviation, different images differ. None: as transformers makes them.
    """
    import torch

    from clipkd.core.vision import torchvision  # noqa: F401  (transformers imports it)

    import transformers  # isort: skip

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**{**sizes, "image_size": 24, "patch_size": 8, **changes})
    torch.manual_seed(0)
    if classes is None:
        model = transformers.ViTModel(config, add_pooling_layer=False)
    else:
        config.num_labels = classes
        model = transformers.ViTForImageClassification(config)
    for parameter in model.parameters():
        if parameter.ndim >= 2 and std is not None:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    side = config.image_size
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
