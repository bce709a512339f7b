"""Rows X: planted code, tokens, permissions, the environment, and names that are more than names."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipkd import cli
from clipkd.core import environment, verified
from clipkd.core.artifacts import building, open_artifact
from clipkd.core.errors import ClipkdError, InputError
from clipkd.core.files import write_json
from clipkd.report import write_report
from clipkd.report.figures import figure_stems
from clipkd.runs.folder import load_student
from clipkd.runs.record import FAILED
from clipkd.runs.unfinished import STATE, Checkpoints
from clipkd.spec.config import load
from clipkd.tables.html import as_html
from clipkd.tables.table import Column, Entry, Table
from clipkd.workflow import doctor
from clipkd.workflow.checks import Findings
from tests import warm
from tests.faults.checks import fault, nothing, replaced
from tests.synthetic import small, write_study

ROOT = Path(__file__).parents[2]
BASE = ROOT / "config/config.yaml"
TOKEN = "hf_canaryCanaryCanaryCanary123"


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, canary: Path, how: int) -> None:
        self.canary, self.how = canary, how

    def __reduce__(self) -> Any:
        calls = (
            (os.mkdir, (str(self.canary),)),
            (os.system, (f"mkdir {self.canary}",)),
            (eval, (f"__import__('os').mkdir({str(self.canary)!r})",)),
            (exec, (f"import os; os.mkdir({str(self.canary)!r})",)),
            (subprocess.call, (["mkdir", str(self.canary)],)),
            (Path.mkdir, (self.canary,)),
        )
        return calls[self.how]


def planted(folder: Path, canary: Path) -> list[Path]:
    """Write files of every kind that is read here, with code in them."""
    folder.mkdir()
    found = []
    for how in range(6):
        evil = Evil(canary, how)
        for protocol in (0, 2, 4):
            path = folder / f"pickle-{how}-{protocol}.pt"
            path.write_bytes(pickle.dumps({"classifier.weight": evil}, protocol=protocol))
            found.append(path)
        for suffix in (".pt", ".pth"):
            path = folder / f"torch-{how}{suffix}"
            torch.save({"classifier.weight": evil}, path)
            found.append(path)
        path = folder / f"misnamed-{how}.safetensors"
        torch.save({"classifier.weight": evil}, path)
        found.append(path)
        path = folder / f"object-{how}.npy"
        np.save(path, np.array([evil], dtype=object), allow_pickle=True)
        found.append(path)
    return found


def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    real, array = torch.load, np.load
    monkeypatch.setattr(torch, "load", lambda path, **more: real(path, weights_only=False))
    monkeypatch.setattr(np, "load", lambda path, **more: array(path, allow_pickle=True))


@fault("X01", "R05", **{"reading-weights-only": trusting})
def test_planted_code_never_runs(tmp_path: Path, record_property: Any) -> None:
    """Students, checkpoints and arrays, also where whoever planted them made the manifests fit."""
    canary = tmp_path / "canary"
    files = planted(tmp_path / "files", canary)
    for path in files:
        try:
            if path.suffix == ".npy":
                with building(tmp_path / path.stem, "toy", {"a": 1}) as draft:
                    (draft.path / path.name).write_bytes(path.read_bytes())
                open_artifact(tmp_path / path.stem, "toy").array(path.stem)
            else:
                load_student(path)
        except (ClipkdError, ValueError):
            pass
        else:
            assert canary.exists(), f"taken as data: {path.name}"
        assert not canary.exists(), path.name
    for how in range(6):
        with building(tmp_path / str(how) / "0000000001", "checkpoint", {"a": 1}) as draft:
            torch.save({"student": Evil(canary, how)}, draft.path / STATE)
        with pytest.raises(ClipkdError):
            Checkpoints(tmp_path / str(how), {"a": 1}).newest()
        assert not canary.exists()
    record_property("malicious files", len(files) + 6)


NAMES = (
    "x;touch canary",
    "$(touch canary)",
    "`touch canary`",
    "x|touch canary",
    "x\ntouch canary",
    "x && touch canary",
)
NAMES += ("-rf", "--data=/", "{output}", "{wildcards.teacher}", "../../x", "/etc/passwd", "a b", "", " ", "x" * 300)


@fault("X05", **{"the-allow-lists": replaced("clipkd.spec.config.check_names", nothing)})
def test_a_name_that_is_more_than_a_name_is_refused(tmp_path: Path, record_property: Any) -> None:
    """In every place of a config where a name stands."""
    tried = 0
    block = {"name": "n", "datasets": ["digits"], "teachers": ["digits-vit-s"], "students": ["tiny-32"]}
    block |= {"train_types": ["embed-KD"], "recipes": ["reference"], "seeds": [0]}
    path = tmp_path / "mine.yaml"
    for name in NAMES:
        axes = ("datasets", "teachers", "students", "train_types", "recipes")
        configs: list[dict[str, Any]] = [{"grid": [block | {axis: [name]}]} for axis in axes]
        configs += [{"prototypes": {"form": name}}, {"sources": {name: "/data"}}]
        if name not in {"a b", " ", "-rf"}:  # a block's name is for people
            configs.append({"grid": [block | {"name": name}]})
        for config in configs:
            path.write_text(json.dumps(config))
            try:
                load([BASE, path])
            except InputError:
                tried += 1
            else:
                pytest.fail(f"taken: {config}")
    assert not (Path.cwd() / "canary").exists()
    record_property("malicious names refused", tried)


@fault("X06", **{"the-refusal": replaced("clipkd.spec.yaml_source.no_secret", lambda text: text)})
def test_a_token_in_a_config_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    addresses = ["https://me:secret@example.org/x", "https://example.org/x?X-Amz-Signature=secret"]
    for text in (f"sources: {{cifar10: {TOKEN}}}\n", *(f"sources: {{cifar10: '{one}'}}\n" for one in addresses)):
        path.write_text(text)
        try:
            load([BASE, path])
        except InputError as error:
            assert "not allowed in a config" in str(error)
            assert "canary" not in str(error)
            assert "secret" not in str(error)
        else:
            pytest.fail("a secret goes into logs and reports")


@pytest.mark.slow
def test_x06_no_token_is_written_anywhere(tmp_path: Path) -> None:
    """A whole run with the token in the environment, and mistakes with it on the command line."""
    environment = os.environ | {
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp_path / "c"),
    }
    environment |= {"HTTPS_PROXY": f"http://me:{TOKEN}@127.0.0.1:9", "CUDA_VISIBLE_DEVICES": ""}
    train = ["train", "--dataset-name", "digits", "--student", "tiny-32", "--train-type", "supervised", "--epochs", "1"]
    said = ""
    for arguments in (
        [*train, "--batch-size", "512"],
        ["fetch", TOKEN],
        ["fetch", f"owner/model@{TOKEN}"],
        ["fetch", "vit-b16-in21k"],
    ):
        command = [str(warm.command()), *arguments]
        answer = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert "Traceback" not in answer.stderr
        said += answer.stdout + answer.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "metrics.json" for path in files)
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in said
    # The control: what is written down of the environment is written down, without its password.
    recorded = json.loads(next(path for path in files if path.name == "env.json").read_text())["variables"]
    assert recorded["HTTPS_PROXY"] == "http://127.0.0.1:9"


def only_with_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "without_secrets", lambda text: re.sub(r"(?<=://)[^/?#\s]*@", "", text))


@fault("X06", **{"only user and password after a scheme": only_with_a_scheme})
def test_no_secret_of_a_variable_is_recorded() -> None:
    variables = {
        "HTTPS_PROXY": "me:secret@proxy.example.org:3128",
        "HF_ENDPOINT": "https://hub.example.org/api?token=secret",
        "ALL_PROXY": "socks5://me:secret@proxy.example.org",
        "PYTHONPATH": "/home/me@work/lib",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        recorded = environment.recorded()
    assert "secret" not in json.dumps(recorded)
    assert recorded["HTTPS_PROXY"] == "proxy.example.org:3128"
    assert recorded["HF_ENDPOINT"] == "https://hub.example.org/api"
    assert recorded["PYTHONPATH"] == "/home/me@work/lib"


@fault("X07", **{"the-mask": replaced("clipkd.cli.os.umask", lambda mask: 0)})
def test_nobody_else_can_change_what_is_written(tmp_path: Path) -> None:
    """Whatever the umask: files and folders that a command makes are not for everyone to write."""
    for mask in (0o000, 0o022, 0o077):
        before = os.umask(mask)
        place = tmp_path / oct(mask)
        place.mkdir()
        try:
            assert cli.main(["download", "digits", "--data", str(place / "data")]) == 0
        finally:
            os.umask(before)
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (place / "data").rglob("*")}
        assert len(modes) > 5
        assert [path for path, mode in modes.items() if mode & stat.S_IWOTH] == []
        if mask == 0o022:
            assert {mode for path, mode in modes.items()} == {0o644, 0o755}


@fault("X07", "M01", **{"the-owner-check": lambda monkeypatch: monkeypatch.setattr(verified.stat, "S_IWOTH", 0)})
def test_a_memory_that_others_can_write_is_no_memory(tmp_path: Path) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    patch.setattr(verified, "RACY_SECONDS", 0.0)
    patch.setattr(verified, "SMALL_BYTES", 0)
    try:
        with building(tmp_path / "x", "toy", {"a": 1}) as draft:
            np.save(draft.path / "x.npy", np.arange(9))
        open_artifact(tmp_path / "x", "toy")
        (note,) = (tmp_path / "cache/clipkd/verified").iterdir()
        assert verified.Memory(tmp_path / "x").known
        note.chmod(0o602)
        assert verified.Memory(tmp_path / "x").known == {}
    finally:
        patch.undo()


def unescaped(module: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Return a mutant: this module's templates put text into HTML as it is."""

    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        whole = importlib.import_module(module).TEMPLATES
        monkeypatch.setattr(f"{module}.TEMPLATES", whole.overlay(autoescape=False))

    return mutate


@pytest.mark.slow
@fault("X08", tables=unescaped("clipkd.tables.html"), pages=unescaped("clipkd.report"))
def test_what_a_report_shows_is_escaped(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A table as a page, and the whole report of a grid whose machine and failure are named in HTML."""
    evil = "<script>alert(1)</script>"
    page = as_html(Table("t", evil, [Column(evil, evil)], [[Entry(evil)]], [evil]))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    study = write_study(small(), tmp_path_factory.mktemp("study"))
    study.change(study.folder(train_type="supervised"), "cost.json", "device.name", evil)
    failed = study.folder(train_type="vanilla", recipe="corrected", seed=1)
    shutil.rmtree(failed)
    write_json(failed / FAILED, {"message": f"loss is not finite {evil}"})
    for stem in figure_stems(study.config):
        (study.root / f"{stem}.svg").write_text("<svg/>")
    write_report(study.config, study.results, study.data, study.root, study.root / "report.html", partial=True)
    page = (study.root / "report.html").read_text()
    assert page.count("<script") == 1
    assert page.count("&lt;script&gt;alert(1)") >= 3


@fault("X09", **{"the-refusal": replaced("clipkd.core.environment.REFUSED", ())})
def test_a_switch_that_lets_weights_run_code_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    try:
        assert cli.main(["list", "recipes"]) == 2
        assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set" in capsys.readouterr().err
    finally:
        patch.undo()


@pytest.mark.slow
def test_x09_a_torch_in_the_working_folder_is_not_imported(tmp_path: Path) -> None:
    """The control: Python itself, given a module, takes it."""
    (tmp_path / "torch.py").write_text("open('canary', 'w')\n")
    (tmp_path / "yaml.py").write_text("open('canary', 'w')\n")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "clipkd", "evaluate", "absent.pt", "--dataset-name", "digits"]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert not (tmp_path / "canary").exists()
    subprocess.run([sys.executable, "-c", "import torch"], cwd=tmp_path, check=True)
    assert (tmp_path / "canary").exists()


@fault("X09", **{"the-record": replaced("clipkd.core.environment.RECORDED", ())})
def test_what_decides_which_code_runs_is_written_down() -> None:
    patch = pytest.MonkeyPatch()
    for name in ("PYTHONPATH", "HF_ENDPOINT", "https_proxy", "LD_PRELOAD"):
        patch.setenv(name, f"http://me:secret@example.org/{name}")
    try:
        found = environment.recorded()
    finally:
        patch.undo()
    assert {"PYTHONPATH", "HF_ENDPOINT", "https_proxy", "LD_PRELOAD"} <= set(found)
    assert "secret" not in str(found)


MENDED = {"torch": "2.10.0", "pillow": "12.3", "requests": "2.32.4", "pyyaml": "5.4", "transformers": "5.23"}
MENDED |= {"urllib3": "2.6.3", "jinja2": "3.1.6", "tqdm": "4.66.3"}
"""The first versions without a vulnerability in a part that clipkd uses."""


@fault("X10", **{"the-floors": replaced("clipkd.workflow.doctor.needed", dict)})
def test_versions_with_known_vulnerabilities_are_too_old() -> None:
    """`make audit` asks for those that became known since."""
    floors = {package.lower(): version for package, version in doctor.needed().items()}
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements/lock.txt").read_text().lower(), re.MULTILINE))
    for package, version in MENDED.items():
        assert doctor.numbers(floors.get(package, "0")) >= doctor.numbers(version), package
        assert doctor.numbers(pins[package]) >= doctor.numbers(version), package
    patch = pytest.MonkeyPatch()
    patch.setattr(doctor, "version_of", {"pillow": "12.1.0"}.get)
    try:
        doctor.versions(ROOT, found := Findings())
    finally:
        patch.undo()
    assert [finding.text for finding in found.found if finding.what == "pillow"] == [
        f"12.1.0 is too old, needed is {floors['pillow']}: `make install`"
    ]


def test_x03_a_link_in_the_way_of_a_result(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("mine")
    (tmp_path / "results.json").symlink_to(outside)
    write_json(tmp_path / "results.json", {})
    assert outside.read_text() == "mine"
