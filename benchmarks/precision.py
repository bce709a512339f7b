"""Accuracy in bfloat16 against float32: students on the real digits, over seeds."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks.material import Material
from clipkd.embeddings import prepare
from clipkd.runs.folder import RunFolder
from clipkd.runs.job import open_job
from clipkd.runs.training import train
from clipkd.spec.cells import Cell
from clipkd.spec.layout import Layout
from clipkd.spec.settings import Hyperparameters, StudentPrecision

SEEDS, EPOCHS = 10, 12
TEACHER, STUDENT = "digits-vit-s", "tiny-32"
TYPES = ("supervised", "embed-KD", "teacher-KD")
FORMATS: tuple[StudentPrecision, ...] = ("fp32", "bf16")


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return, per train type, the test top-1 of each seed in both formats (corrected recipe, selected epoch)."""
    layout = Layout(material.folder / "digits")
    numbers = Hyperparameters(epochs=options.precision_epochs, learning_rate=1e-3)
    reached: dict[str, dict[str, list[float]]] = {}
    for train_type in TYPES:
        reached[train_type] = {precision: [] for precision in FORMATS}
        for seed in range(options.precision_seeds):
            cell = Cell(
                "corrected", "digits", STUDENT, "none" if train_type == "supervised" else TEACHER, train_type, seed
            )
            prepare.for_training(cell, layout, device)
            for precision in FORMATS:
                job = open_job(cell, numbers.model_copy(update={"precision": precision}), layout, device)
                metrics = train(job, RunFolder(material.folder / "precision" / precision / cell.folder))
                reached[train_type][precision].append(100 * metrics.selected.test.top1)
    return {"student": STUDENT, "epochs": options.precision_epochs, "top1": reached, "difference": differences(reached)}


def differences(reached: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Return, per train type, mean and sample standard deviation of bf16 minus fp32, paired by seed, in points."""
    found = {}
    for train_type, formats in reached.items():
        pairs = [low - full for low, full in zip(formats["bf16"], formats["fp32"], strict=True)]
        spread = statistics.stdev(pairs) if len(pairs) > 1 else 0.0
        found[train_type] = {"mean": round(statistics.mean(pairs), 3), "deviation": round(spread, 3)}
    return found
