"""Counts of what was tried: printed at the end, and kept for docs/faults.md where tests ran at full size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.checks import FULL

KEPT = Path(__file__).parents[2] / "docs/faults.json"
COUNTS: dict[str, dict[str, object]] = {}
FAILED: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid.partition("[")[0]
    if report.failed:
        FAILED.add(name)
    elif report.when == "call" and report.nodeid.startswith("tests/faults/") and report.user_properties:
        COUNTS.setdefault(name, {}).update(report.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts; those of tests that passed at full size replace what is kept of them."""
    if not COUNTS:
        return
    terminalreporter.section("faults: what was tried")
    for test, counts in sorted(COUNTS.items()):
        terminalreporter.line(f"{test}: " + "; ".join(f"{what}: {number}" for what, number in counts.items()))
    if FULL:
        kept = json.loads(KEPT.read_text(encoding="utf-8"))["counts"] if KEPT.exists() else {}
        kept |= {test: counts for test, counts in COUNTS.items() if test not in FAILED}
        KEPT.write_text(json.dumps({"counts": kept}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
