"""The list of faults can't rot: every row has a test and a control, every test that it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutants

ROOT = Path(__file__).parents[2]
GROUPS = "CDTMRSVGX"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import faults

    return faults


def test_every_row_has_a_test_and_a_control(faults) -> None:
    counts = {group: sum(name.startswith(group) for name in faults.ROWS) for group in GROUPS}
    assert list(faults.ROWS) == [f"{group}{n:02}" for group in GROUPS for n in range(1, counts[group] + 1)]
    assert faults.problems() == []


def test_the_page_is_up_to_date() -> None:
    command = [sys.executable, "docs/faults.py", "--check"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_a_row_without_test_or_control_is_noticed(faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(faults.ROWS, "Z01", {"fault": "x", "result": "y"})
    assert faults.problems() == ["Z01 has no test", "Z01 has no control that must fail"]
    monkeypatch.setitem(
        faults.ROWS, "Z01", {"fault": "x", "result": "y", "tests": ["tests/a.py::test_b"], "control": "c"}
    )
    assert faults.problems() == ["Z01: tests/a.py::test_b does not exist"]


def test_the_test_of_each_claim_exists() -> None:
    """tests/README.md names one test per claim."""
    page = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `([\w/]+\.py)::(\w+)` \|", page)
    assert len(named) > 20
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not re.search(rf"^def {test}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert missing == []


def test_every_mutant_is_a_change_of_code_that_is_there() -> None:
    """Without running them (`make test-mutants`): what each replaces is there once, and so are its tests."""
    for mutant in mutants.mutants():
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert mutant.of(text) != text, mutant.name
        for test in mutant.tests:
            path, _, name = test.partition("::")
            assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), test
    assert len(mutants.mutants()) > 60
