"""The teacher's cost: running it once and keeping what it says; checking what was kept."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from benchmarks.contenders import RECIPE, layout_of
from benchmarks.material import Material
from benchmarks.rounds import cpu_seconds
from clipkd.core.artifacts import open_artifact
from clipkd.core.files import sha256
from clipkd.embeddings import prepare
from clipkd.spec.cells import Cell

IMAGES = 96
"""Another number than the training benchmarks', whose embeddings are there already."""
HASHED_BYTES = 1 << 26


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return seconds per teacher pass, stored bytes per view, and the speed at which stored bytes are checked."""
    layout = layout_of(material)
    cell = Cell(RECIPE, material.dataset(IMAGES), options.student, material.teacher_folder, "teacher-KD", 0)
    store = layout.full_embeddings(cell)
    assert cell.teacher_spec is not None
    prepare.dataset(cell.dataset_spec, layout, None)
    prepare.teacher(cell.teacher_spec, layout, device)
    wall, cpu = time.perf_counter(), cpu_seconds()
    prepare.embeddings(store, layout, None, device, options.batch_size)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    artifact = open_artifact(store.folder, "embeddings", store.identity)
    passes = artifact.facts["forward_passes"]
    train = artifact.manifest["files"]["train.npy"]
    return {
        "passes": passes,
        "wall_s_per_pass": round(wall / passes, 5),
        "cpu_s_per_pass": round(cpu / passes, 5),
        "dtype": train["dtype"],
        "dimensions": train["shape"][-1],
        "bytes_per_view": train["bytes"] // (train["shape"][0] * train["shape"][1]),
        "checked_bytes_per_second": round(checking_speed(material)),
    }


def checking_speed(material: Material) -> float:
    """Return how many bytes a second the check of an artefact's hashes reads, from the page cache."""
    path = material.folder / "bytes"
    path.write_bytes(bytes(HASHED_BYTES))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        sha256(path)
        seconds.append(time.perf_counter() - start)
    path.unlink()
    return HASHED_BYTES / statistics.median(seconds)
