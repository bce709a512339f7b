"""Counts of what was tried: printed at the end, and kept for docs/faults.md where everything was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.checks import FULL

KEPT = Path(__file__).parents[2] / "docs/faults.json"
COUNTS: dict[str, dict[str, object]] = {}
OUTCOMES: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.nodeid.startswith("tests/faults/"):
        OUTCOMES.append(report.outcome)
        if report.user_properties:
            COUNTS.setdefault(report.nodeid.partition("[")[0], {}).update(report.user_properties)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not COUNTS:
        return
    terminalreporter.section("faults: what was tried")
    for test, counts in sorted(COUNTS.items()):
        terminalreporter.line(f"{test}: " + "; ".join(f"{what}: {number}" for what, number in counts.items()))
    if FULL and set(OUTCOMES) == {"passed"}:
        text = json.dumps({"passed": len(OUTCOMES), "counts": dict(sorted(COUNTS.items()))}, indent=2, sort_keys=True)
        KEPT.write_text(text + "\n", encoding="utf-8")
