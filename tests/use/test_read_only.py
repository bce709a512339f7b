"""A complete run is used where nothing can be written: everything lies on a file system mounted read-only."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from clipkd.core.errors import MachineError
from tests.faults.test_store import can_unshare

# Runs each command as `clipkd` does, in one process; prints its exit code and what it says.
COMMANDS = """
import contextlib, io, json, sys
from clipkd.cli import main
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(words)
    print(json.dumps([words[0], code, said.getvalue()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare(), reason="this kernel lets nobody unshare")
def test_a_complete_run_is_used_without_writing(run_folder, digits_folder, scans, tmp_path):
    training = ["train", "--dataset-name", "digits", "--student", "tiny-32", "--train-type", "supervised"]
    training += ["--learning-rate", "2e-3", "--device", "cpu", "--data", digits_folder, "--log-folder", run_folder]
    commands = [
        ["evaluate", run_folder, "--data", digits_folder],
        ["predict", run_folder, *scans[:2], "--output", tmp_path / "predictions.csv"],
        ["export", run_folder, tmp_path / "exported", "--format", "safetensors"],
        ["verify", run_folder],
        ["download", "digits", "--data", digits_folder],
        [*training, "--epochs", 8],
        # The control: what has to write can't.
        [*training, "--epochs", 9, "--overwrite"],
        ["export", run_folder, digits_folder / "exported", "--format", "safetensors"],
    ]
    before = sorted(path.name for path in run_folder.iterdir())
    roots = {run_folder, digits_folder}
    mounts = [f"mount --bind {root} {root} && mount -o remount,ro,bind {root}" for root in roots]
    script = " && ".join([*mounts, f'exec {sys.executable} -c "$0" "$1"'])
    words = json.dumps([[str(word) for word in command] for command in commands])
    answer = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, COMMANDS, words], capture_output=True, text=True, check=False,
        timeout=120, env=os.environ | {"XDG_CACHE_HOME": str(run_folder / "cache"), "HOME": str(run_folder)},
    )  # fmt: skip
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [verb for verb, _, _ in found] == [command[0] for command in commands], answer.stderr
    for verb, code, said in found[:-2]:
        assert code == 0, (verb, said)
    assert "complete result of this run: nothing to do" in found[5][2]
    assert found[6][1] == MachineError.exit_code
    assert f"{run_folder} can't be written, and holds no complete result of this run" in found[6][2]
    assert found[7][1] == MachineError.exit_code
    assert "Read-only file system" in found[7][2]
    assert sorted(path.name for path in run_folder.iterdir()) == before
