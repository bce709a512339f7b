"""200 random kills of one training after the other: each goes on and ends with the same student, to the bit."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from clipkd.core.files import write_json
from clipkd.runs.unfinished import STATE, Checkpoints
from tests.training.test_resume import RESULTS, check_equal, save_after_every_step, train, whole

__all__ = ["save_after_every_step", "whole"]
pytestmark = pytest.mark.long
KILLS = 200


def killed_after(seconds: float, data: Path, folder: Path) -> int:
    """Train in a forked process, kill it after some time; return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(data, folder)
            status = 0
        finally:
            os._exit(status)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def kill_again_and_again(data: Path, folder: Path, seconds: random.Random) -> int:
    """Kill a training at random moments until it ends by itself; return how often it was killed."""
    kills = 0
    while os.WIFSIGNALED(killed_after(seconds.uniform(0.05, 0.8), data, folder)):
        kills += 1
    return kills


def test_200_random_kills(digits_folder, whole, tmp_path):
    seconds, kills, runs = random.Random(200), 0, 0
    while kills < KILLS:
        folder = tmp_path / str(runs)
        kills += kill_again_and_again(digits_folder, folder, seconds)
        train(digits_folder, folder)
        check_equal(folder, whole)
        runs += 1
    assert runs > 1


def save_in_place(self, step, state):
    """Save as many programs do: over the file that is there, slowly where the disk is slow."""
    content = io.BytesIO()
    torch.save(state, content)
    folder = self.folder / "0000000001"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / STATE, "wb") as stream:
        for start in range(0, len(content.getbuffer()), 1 << 18):
            stream.write(content.getbuffer()[start : start + (1 << 18)])
            stream.flush()
            time.sleep(0.005)
    write_json(folder / "place.json", {"step": step})


def load_in_place(self):
    path = self.folder / "0000000001" / STATE
    return torch.load(path, weights_only=True) if path.exists() else None


def test_control_saving_in_place_loses_runs(digits_folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, "save", save_in_place)
    monkeypatch.setattr(Checkpoints, "newest", load_in_place)
    seconds, lost = random.Random(1), 0
    for number in range(20):
        folder = tmp_path / str(number)
        killed_after(seconds.uniform(0.3, 1.0), digits_folder, folder)
        try:
            train(digits_folder, folder)
            lost += any((folder / name).read_bytes() != (whole / name).read_bytes() for name in RESULTS)
        except Exception:  # whatever a torn file makes torch say
            lost += 1
    assert lost >= 3
