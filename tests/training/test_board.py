"""Curves: TensorBoard always, Weights & Biases, MLflow and trackio where asked for."""

from __future__ import annotations

import csv
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipkd.runs.trackers import Trackers
from tests import warm

TRAIN = ["train", "--dataset-name", "digits", "--student", "tiny-32", "--train-type", "supervised", "--epochs", "2"]
COLUMNS = {"Train loss": "train_loss", "Val loss": "val_loss", "Val acc.": "val_top1"}


def train(data: Path, folder: Path, *program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*(program or [str(warm.command())]), *TRAIN, "--data", str(data), "--log-folder", str(folder)]
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
    cold = sys.executable, "-m", "clipkd"  # timm imports the package, in warm processes too
    answer = train(digits_folder, tmp_path / "run", *cold, CLIPKD_WANDB="digits", PYTHONPATH=str(tmp_path / "hidden"))
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


@pytest.mark.long
def test_weights_and_biases_offline_has_the_history(digits_folder, tmp_path) -> None:
    """The real package, without network: what it would send lies in the run folder."""
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


def test_mlflow_has_the_history_and_the_tables(digits_folder, tmp_path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install 'clipkd[mlflow]' to test the reports to MLflow")
    where = f"sqlite:///{tmp_path}/mlflow.db"
    answer = train(digits_folder, tmp_path / "run", CLIPKD_MLFLOW="digits", MLFLOW_TRACKING_URI=where)
    assert answer.returncode == 0, answer.stderr
    client = mlflow.MlflowClient(where)
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    for name, wanted in history(tmp_path / "run").items():
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert points == [(epoch, pytest.approx(value)) for epoch, value in enumerate(wanted, start=1)]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert run.data.metrics["Test acc."] == pytest.approx(metrics["selected"]["test"]["top1"])
    assert (run.info.status, run.data.tags["clipkd.run"]) == ("FINISHED", metrics["fingerprint"])
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"history.csv", "metrics.json", "cost.json"}


def test_mlflow_goes_on_with_a_run_that_resumes_on_another_device(tmp_path, monkeypatch) -> None:
    """A client in memory that refuses what MLflow refuses: another value of a parameter."""
    runs, parameters, curve, statuses = [], {}, [], []

    def create_run(experiment: str, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        runs.append(SimpleNamespace(info=SimpleNamespace(run_id=tags["clipkd.run"])))
        return runs[0]

    def log_param(run: str, key: str, value: str) -> None:
        if parameters.setdefault(key, value) != value:
            raise ValueError(f"Changing param values is not allowed: {key}")

    client = SimpleNamespace(
        get_experiment_by_name=lambda name: SimpleNamespace(experiment_id="1"),
        search_runs=lambda experiments, wanted, max_results: runs,
        create_run=create_run,
        update_run=lambda run, status: statuses.append(status),
        set_terminated=lambda run, status: statuses.append(status),
        log_param=log_param,
        log_metric=lambda run, name, value, step: curve.append((step, value)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=lambda: client))
    monkeypatch.setenv("CLIPKD_MLFLOW", "digits")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # set by what is tested: put back after it
    for epoch, device in ((1, "cuda"), (2, "cpu")):
        trackers = Trackers(tmp_path, "run", "name", {"device": device})
        trackers.add(epoch, {"Train loss": 1 / epoch})
        trackers.end(epoch == 2, {})
    assert (len(runs), parameters, curve) == (1, {"device": "cuda"}, [(1, 1.0), (2, 0.5)])
    assert statuses == ["KILLED", "RUNNING", "FINISHED"]


def test_trackio_has_the_history(digits_folder, tmp_path) -> None:
    pytest.importorskip("trackio", reason="pip install 'clipkd[trackio]' to test the reports to trackio")
    answer = train(digits_folder, tmp_path / "run", CLIPKD_TRACKIO="digits", TRACKIO_DIR=str(tmp_path / "trackio"))
    assert (answer.returncode, "warning" in answer.stderr) == (0, False), answer.stderr
    fingerprint = json.loads((tmp_path / "run/metrics.json").read_text())["fingerprint"]
    name = f"corrected/digits/tiny-32/none/supervised/seed0-{fingerprint}"
    code = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as S; "
        f"print('FOUND', json.dumps(S.get_logs('digits', {name!r}), default=str))"
    )
    read = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    logs = json.loads(read.stdout.partition("FOUND ")[2])
    for name, wanted in history(tmp_path / "run").items():
        assert [log[name] for log in logs if name in log] == pytest.approx(wanted)
    assert sum("Test acc." in log for log in logs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["log", *(pytest.param(one, marks=pytest.mark.long) for one in ("init", "finish"))])
def test_a_service_that_fails_stops_no_training(where, digits_folder, tmp_path) -> None:
    """A package that raises, at each place where it is asked for something."""
    package = (
        "class Run:\n"
        "    def log(self, *a, **k): fail('log')\n"
        "    def log_artifact(self, *a, **k): pass\n"
        "    def finish(self): fail('finish')\n"
        "def fail(here):\n"
        f"    if here == '{where}': raise OSError('the service is away\\nfor long')\n"
        "def init(*a, **k):\n"
        "    fail('init')\n"
        "    print('noise')\n"
        "    return Run()\n"
    )
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake/trackio.py").write_text(package)
    answer = train(digits_folder, tmp_path / "run", CLIPKD_TRACKIO="digits", PYTHONPATH=str(tmp_path / "fake"))
    assert answer.returncode == 0, answer.stderr
    warnings = [line for line in answer.stderr.splitlines() if "warning" in line]
    assert warnings == ["warning: trackio failed (OSError: the service is away); it continues without"]
    assert "noise" not in answer.stdout
    assert (tmp_path / "run/metrics.json").exists()
