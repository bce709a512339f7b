"""Run folders that a refused command leaves: none that it made."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from clipkd.cli import main
from clipkd.core.lock import acquire
from clipkd.runs.unused import is_unused, removed_if_unused


def test_a_training_that_is_refused_leaves_no_folder(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["train", "--data", str(digits_folder), "--dataset", "digits", "--student", "tiny-32"]
    assert main([*line, "--train-type", "supervised", "--labels", "99999"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_only_folders_that_were_made_and_not_written_go(tmp_path: Path) -> None:
    before, failed, written, held = (tmp_path / name for name in ("before", "a/failed", "a/written", "a/held"))
    before.mkdir()
    folders = [before, failed, written, held]
    with acquire(before), ExitStack() as stack, removed_if_unused(folders):
        for folder in folders[1:]:
            folder.mkdir(parents=True)
            with acquire(folder):
                pass
        (written / "metrics.json").write_text("{}")
        stack.enter_context(acquire(held))
    assert [folder.exists() for folder in folders] == [True, False, True, True]
    assert [is_unused(folder) for folder in folders] == [True, False, False, True]
