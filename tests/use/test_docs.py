"""docs/using.md and docs/deployment.md as a user reads them: every command and every line of Python is run."""

from __future__ import annotations

import glob
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from clipkd.cli import main
from clipkd.export.measures import speed
from tests.use.upload_server import Upload

PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("using.md", "deployment.md")]
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
ELSEWHERE = ("pip install", "tensorboard", "CLIPKD_WANDB=", "CLIPKD_MLFLOW=")
"""Not ours, or run by tests/training/test_board.py."""


@pytest.fixture
def home(run_folder, digits_folder, scans, tmp_path, monkeypatch) -> Path:
    """A folder as the demo leaves it, with a few images of the user's."""
    here = tmp_path / "results/runs/corrected/digits/tiny-32/digits-vit-s/embed-KD/seed0"
    shutil.copytree(run_folder, here)
    shutil.copytree(run_folder, tmp_path / "results/runs/corrected/digits/tiny-32/none/supervised/seed0")
    shutil.copytree(digits_folder, tmp_path / "data")
    shutil.copy(scans[0], tmp_path / "scan.png")
    for split in ("train", "val"):
        for digit in range(10):
            folder = tmp_path / f"photos/birds/{split}/{digit}"
            folder.mkdir(parents=True)
            for number in range(3):
                shutil.copy(scans[2 * digit], folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(text: str) -> list[str]:
    """Return the shell's lines of a page, without comments."""
    lines = [line for kind, block in BLOCK.findall(text) if not kind for line in block.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


@pytest.mark.slow
def test_every_command(home, monkeypatch, capsys) -> None:
    hub = Upload("hf_docs")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_docs")
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    assert main(shlex.split("download birds --dataset-source photos/birds")) == 0
    ran = []
    for line in (line for page in PAGES for line in commands(page.read_text())):
        if line.startswith(ELSEWHERE):
            continue
        if line.startswith("RUN="):
            monkeypatch.setenv("RUN", line.removeprefix("RUN="))
            continue
        before, is_piped, command = line.rpartition(" | ")
        if is_piped:
            listed = subprocess.run(shlex.split(before), capture_output=True, text=True, check=True).stdout
            monkeypatch.setattr("sys.stdin", io.StringIO(listed))
        words = shlex.split(
            command.replace("$RUN", "results/runs/corrected/digits/tiny-32/digits-vit-s/embed-KD/seed0")
        )
        assert words[0] == "clipkd", line
        arguments = [path for word in words[1:] for path in (sorted(glob.glob(word)) if "*" in word else [word])]
        if words[1] == "demo":  # serves until it is stopped; tests/use/test_demo.py
            continue
        assert main(arguments) == 0, (line, capsys.readouterr().err)
        ran.append(words[1])
    assert ran == [*3 * ["predict"], *2 * ["evaluate"], "compare", *2 * ["export"], "benchmark", "push"]
    assert {"README.md", "model.safetensors"} <= hub.repositories["owner/my-student"].keys()
    hub.close()
    assert (home / "predictions.json").stat().st_size > 1000
    assert (home / "results/comparison/curves.svg").exists()


@pytest.mark.slow
def test_every_line_of_python(home) -> None:
    run = "results/runs/corrected/digits/tiny-32/digits-vit-s/embed-KD/seed0"
    assert main(["export", run, "exported", "--format", "hf"]) == 0
    assert main(["export", run, "exported-onnx", "--format", "onnx"]) == 0
    space: dict = {}
    blocks = [block for kind, block in BLOCK.findall("".join(page.read_text() for page in PAGES)) if kind == "python"]
    assert len(blocks) == 4
    for block in blocks:
        exec(block, space)
    assert (home / "student.pt2").stat().st_size > 100_000
    assert space["probabilities"].shape == (1, 10)
