"""The pages on cost say which of their numbers were measured, on which machine, and which are modelled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GPU = {
    "gpu": {
        "machine": {"device": {"name": "NVIDIA X", "kind": "cuda", "threads": 1}},
        "students": {"default": 50.0},
        "teachers": {"vit_base_patch16_224": 60.0, "vit_large_patch16_224": 100.0},
    }
}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import grid_cost
    import performance

    return grid_cost, performance


def record(name: str, ratio: float) -> dict:
    """Return the committed record as one of another processor."""
    found = json.loads((ROOT / "benchmarks/results/amd-epyc-family-26-model-2.json").read_text(encoding="utf-8"))
    found["distillation"]["machine"]["processor"] = {"family": "6", "model": name}
    found["distillation"]["embed-KD"]["peer"]["cpu_ratio"] = ratio
    return found


def test_without_a_gpu_s_record_its_hours_are_modelled_and_with_one_measured(scripts, monkeypatch) -> None:
    grid_cost, _ = scripts
    cpu = record("1", 2.0)
    monkeypatch.setattr(grid_cost, "measured", lambda: [cpu])
    before = grid_cost.block()
    assert "GPU-hours, modelled | core-hours, measured on AMD EPYC (family 6, model 1) |" in before
    assert "**415**" in before
    # Ten times as fast in both: a tenth of the hours.
    monkeypatch.setattr(grid_cost, "measured", lambda: [cpu, GPU])
    after = grid_cost.block()
    assert "GPU-hours, measured on NVIDIA X |" in after
    assert "modelled" not in after
    assert "**42**" in after


def test_ratios_are_ranges_over_the_processors_measured(scripts) -> None:
    _, performance = scripts
    said = performance.ranges([record("1", 2.1), record("2", 1.3)])
    assert "| embed-KD | released protocol's loop | 1.30 to 2.10 | 2 |" in said
    assert "AMD EPYC (family 6, model 1); AMD EPYC (family 6, model 2)" in said


def test_ratios_to_the_default_precision_are_beside_those_in_fp32(scripts) -> None:
    _, performance = scripts
    found = record("1", 2.0)
    found["distillation"]["embed-KD"]["clipkd, cached, bf16"]["cpu_ratio"] = 0.5
    said = performance.ranges([found])
    assert "| embed-KD | released protocol's loop | 2.00 | 1 |" in said
    assert "| embed-KD, clipkd in bf16 | released protocol's loop | 4.00 | 1 |" in said
    assert "clipkd, cached" not in said
