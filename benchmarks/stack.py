"""On a GPU: one student, and several computed at once, against the peer; seconds per epoch of CIFAR's size."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks.contenders import group_epoch, peer_epoch
from benchmarks.distillation import gflop
from benchmarks.material import Material
from benchmarks.rounds import Contender, interleaved, matrix_peak
from clipkd.plugins import students
from clipkd.spec.settings import StudentPrecision

IMAGES, SIZE, ROUNDS = 50_000, 8, 3
FORMATS: tuple[StudentPrecision, ...] = ("fp32", "bf16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return seconds per epoch and student, the share of the measured peak, peak memory, the ratio to the peer."""
    if device.type != "cuda" and not options.stack_on_cpu:
        return {"not_measured": "there is no CUDA GPU here"}
    images = IMAGES if device.type == "cuda" else options.steps * options.batch_size
    dataset = material.dataset(images)
    contenders: dict[str, Contender] = {}
    sizes = {}
    for precision in FORMATS:
        for size in (1, SIZE):
            name = f"clipkd, {precision}, {f'{size} at once' if size > 1 else 'one'}"
            contenders[name] = group_epoch(
                material, dataset, options.student, "embed-KD", options.batch_size, device, size, precision
            )
            sizes[name] = (size, precision)
    contenders["peer"] = peer_epoch(material, dataset, options.student, "embed-KD", options.batch_size, device)
    memory = {name: peak_memory(epoch, device) for name, epoch in contenders.items()}
    times = interleaved(contenders, min(options.rounds, ROUNDS))
    peaks = {
        precision: matrix_peak(device, size=4096 if device.type == "cuda" else 512, dtype=DTYPES[precision])
        for precision in FORMATS
    }
    work = images * gflop(students.get(options.student))
    entries = {}
    for name, taken in times.items():
        size, precision = sizes.get(name, (1, "fp32"))
        seconds = statistics.median(taken.wall) / size
        ratios = [size * theirs / ours for theirs, ours in zip(times["peer"].wall, taken.wall, strict=True)]
        entries[name] = {
            "seconds_per_epoch": round(seconds, 4),
            "images_per_second": round(images / seconds, 1),
            "of_peak": round(work / seconds / peaks[precision], 4),
            "peak_memory_bytes": memory[name],
            "ratio": round(statistics.median(ratios), 3),
        }
    return {
        "images": images,
        "matrix_peak_gflops": {name: round(peak, 1) for name, peak in peaks.items()},
        "epochs": entries,
    }


def peak_memory(epoch: Contender, device: torch.device) -> int | None:
    """Return the most GPU memory that one epoch holds, all that lies there included; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    epoch()
    return torch.cuda.max_memory_allocated(device)
