"""A small student, really trained on the digits, and its test images as files."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipkd.cli import main
from clipkd.data.dataset import Dataset, open_dataset
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_job
from clipkd.runs.training import train
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters
from tests import warm

Clipkd = Callable[..., subprocess.CompletedProcess[str]]
CELL = Cell("corrected", "digits", "tiny-32", "none", "supervised", 0, epochs=8)


def trained(cell: Cell, data: Path, folder: Path, **layout: Any) -> Path:
    """Train a cell into a folder, for seconds."""
    job = open_job(
        cell, Hyperparameters(epochs=cell.epochs, learning_rate=2e-3), Layout(data, **layout), torch.device("cpu")
    )
    train(job, RunFolder(folder))
    return folder


@pytest.fixture(scope="session")
def run_folder(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a supervised student."""
    return trained(CELL, digits_folder, tmp_path_factory.mktemp("runs") / "seed0")


@pytest.fixture(scope="session")
def digits(digits_folder: Path) -> Dataset:
    return open_dataset(CELL.dataset_spec, Layout(digits_folder).dataset(CELL.dataset_spec))


@pytest.fixture(scope="session")
def scans(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty test images as PNG files."""
    folder = tmp_path_factory.mktemp("scans")
    paths = [folder / f"scan {row:02}.png" for row in range(20)]
    for row, path in enumerate(paths):
        Image.fromarray(np.asarray(digits.image("test", row))).save(path)
    return paths


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Clipkd:
    """Run the same in this process, for what would take a process seconds to import."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse's
            code = int(error.code or 0)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture
def clipkd(tmp_path: Path) -> Clipkd:
    """Run `clipkd` in an empty folder."""

    def run(
        *arguments: str | Path, stdin: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [str(warm.command()), *map(str, arguments)]
        surroundings = os.environ | {"COLUMNS": "100", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=surroundings | (environment or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
