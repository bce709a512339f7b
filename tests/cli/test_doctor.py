"""`clipkd doctor`: says what is there, and fails where something can't work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkd.cli import main
from clipkd.workflow import doctor


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `clipkd doctor` in an empty folder; return exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["doctor", *arguments])
        return code, *capsys.readouterr()

    return call


def levels(folder: Path) -> dict[str, str]:
    return {finding.what: finding.level for finding in doctor.check_up(folder).found}


def test_a_machine_that_can_do_everything(tmp_path, run):
    code, output, _ = run()
    assert code == 0, output
    for part in (
        "ok       torch: ",
        "ok       results: ",
        "a small file is written, synced and renamed in",
        "none yet",
    ):
        assert part in output
    assert not list(tmp_path.rglob(".clipkd-doctor*")), "nothing is left behind"


def test_a_folder_that_can_not_be_written_is_an_error(tmp_path, run):
    (tmp_path / "results").write_text("a file")
    code, output, errors = run()
    assert code == 4
    assert "error    results: " in output
    assert "1 check failed; see the errors above" in errors


def test_old_and_missing_packages_are_named(tmp_path, monkeypatch):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: {"torch": "2.9.1", "dvc": None}.get(name, real(name)))
    found = {finding.what: finding for finding in doctor.check_up(tmp_path).found}
    assert found["torch"].level == "error"
    assert "2.9.1 is too old, needed is 2.11" in found["torch"].text
    assert found["dvc"].level == "warning"
    assert found["numpy"].level == "ok"


@pytest.mark.parametrize(("torchvision", "warned"), [("0.28.0", True), ("0.28.0+cpu", False)])
def test_a_torchvision_for_another_torch_is_named(torchvision, warned, tmp_path, monkeypatch):
    real, asked = doctor.version_of, {"torch": "2.13.0+cpu", "torchvision": torchvision}
    monkeypatch.setattr(doctor, "version_of", lambda name: asked.get(name) or real(name))
    monkeypatch.setattr("sys.platform", "linux")
    said = [one.text for one in doctor.check_up(tmp_path).found if one.level == "warning"]
    assert any("`import timm` may fail" in text for text in said) == warned


@pytest.mark.parametrize("name", ["PYTHONPATH", "HF_ENDPOINT"])
def test_variables_that_change_what_is_loaded_are_warned_of(name, tmp_path, monkeypatch):
    monkeypatch.delenv(name, raising=False)
    assert name not in levels(tmp_path)
    monkeypatch.setenv(name, "1")
    assert levels(tmp_path)[name] == "warning"


def test_a_folder_that_anybody_may_write_is_warned_of(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    assert levels(tmp_path)["data"] == "warning"
    (tmp_path / "data").chmod(0o755)
    assert levels(tmp_path)["data"] == "ok"


def test_what_the_last_grid_lacks_is_named(tmp_path, digits_folder):
    block = {
        "name": "x",
        "datasets": ["digits"],
        "teachers": ["digits-vit-xs"],
        "students": ["tiny-32"],
        "train_types": ["embed-KD"],
        "recipes": ["corrected"],
        "seeds": [0],
    }
    config = {
        "grid": [block],
        "training": {"epochs": 1},
        "embeddings": {"dtype": "int16", "views": 4},
        "prototypes": {"per_class": 100, "seed": 0},
        "sources": {},
    }
    (tmp_path / "results").mkdir()
    (tmp_path / "results/config.json").write_text(json.dumps(config))
    assert doctor.missing_inputs(tmp_path) == ["digits", "digits-vit-xs"]
    (tmp_path / "data").symlink_to(digits_folder)
    assert doctor.missing_inputs(tmp_path) == ["digits-vit-xs"]
    config["grid"][0]["teachers"] = [str(tmp_path / "damaged")]
    (tmp_path / "results/config.json").write_text(json.dumps(config))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.json").write_text("{")
    found = {finding.what: finding for finding in doctor.check_up(tmp_path).found}
    assert (found["inputs"].level, "damaged" in found["inputs"].text) == ("warning", True)


def test_a_folder_that_is_a_link_to_nothing_is_an_error(tmp_path):
    (tmp_path / "data").symlink_to("nowhere")
    assert levels(tmp_path)["data"] == "error"


def test_slurm_without_slurm(tmp_path, run, monkeypatch):
    (tmp_path / "profile").mkdir()
    code, _, errors = run("--slurm", "--profile", "profile")
    assert code == 2
    assert "give the profile's folder with --profile" in errors
    profile = Path(__file__).parents[2] / "profiles/slurm"
    monkeypatch.setenv("PATH", "/nowhere")
    code, output, _ = run("--slurm", "--profile", str(profile))
    assert code == 4
    assert "error    commands: sbatch, srun, squeue, scontrol, sinfo, scancel not found" in output


@pytest.mark.parametrize(
    ("variables", "level"), [({"HOME": "/proc/1"}, "error"), ({"HOME": "/proc/1", "XDG_CACHE_HOME": "."}, "ok")]
)
def test_a_home_that_snakemake_can_not_use_is_an_error(tmp_path, monkeypatch, variables, level):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert levels(tmp_path)["home"] == level
