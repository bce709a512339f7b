"""Curves: TensorBoard always, Weights & Biases where asked for."""

from __future__ import annotations

import csv
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TRAIN = ["train", "--dataset-name", "digits", "--student", "tiny-32", "--train-type", "supervised", "--epochs", "3"]
COLUMNS = {"Train loss": "train_loss", "Val loss": "val_loss", "Val acc.": "val_top1"}


def train(data: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipkd", *TRAIN, "--data", str(data), "--log-folder", str(folder)]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment
    return subprocess.run(command, env=surroundings, cwd=folder.parent, capture_output=True, text=True, timeout=120)


def history(folder: Path) -> dict[str, list[float]]:
    rows = list(csv.DictReader((folder / "history.csv").open()))
    return {name: [float(row[column]) for row in rows] for name, column in COLUMNS.items()}


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a W&B file: after 7 bytes, a log of LevelDB's (blocks of 32 KiB; crc, length, kind)."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield whole
            whole = b""


def test_weights_and_biases_without_its_package_is_refused_before_training(digits_folder, tmp_path) -> None:
    (tmp_path / "hidden/wandb").mkdir(parents=True)
    (tmp_path / "hidden/wandb/__init__.py").write_text("raise ImportError('not installed')")
    answer = train(digits_folder, tmp_path / "run", CLIPKD_WANDB="digits", PYTHONPATH=str(tmp_path / "hidden"))
    assert answer.returncode == 4, answer.stderr
    assert "pip install 'clipkd[wandb]'" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "run/metrics.json").exists()


def test_tensorboard_has_the_history(digits_folder, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    answer = train(digits_folder, tmp_path / "run", CLIPKD_WANDB="")
    assert answer.returncode == 0, answer.stderr
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    for name, wanted in history(tmp_path / "run").items():
        assert [(event.step, event.value) for event in events.Scalars(name)] == [
            (epoch, pytest.approx(value, rel=1e-6)) for epoch, value in enumerate(wanted, start=1)
        ]
    assert not (tmp_path / "run/wandb").exists()


def test_weights_and_biases_offline_has_the_history(digits_folder, tmp_path) -> None:
    """The real package, without network: what it would send lies in the run folder."""
    pytest.importorskip("wandb", reason="pip install 'clipkd[wandb]' to test the reports to Weights & Biases")
    from wandb.proto import wandb_internal_pb2

    answer = train(digits_folder, tmp_path / "run", CLIPKD_WANDB="digits", WANDB_MODE="offline", WANDB_SILENT="true")
    assert answer.returncode == 0, answer.stderr
    (written,) = (tmp_path / "run/wandb").glob("offline-run-*/*.wandb")
    found: dict[str, list[float]] = {name: [] for name in COLUMNS}
    begun = None
    for data in records(written.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            begun = record.run
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                name = item.key or ".".join(item.nested_key)
                if name in found:
                    found[name].append(float(item.value_json))
    assert begun is not None
    assert (begun.project, begun.display_name) == ("digits", "corrected/digits/tiny-32/none/supervised/seed0")
    assert found == {name: pytest.approx(values) for name, values in history(tmp_path / "run").items()}
