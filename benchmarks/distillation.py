"""Training: clipkd against the peer, and the cached teacher against the live one, per train type."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks.contenders import clipkd_epoch, peer_epoch
from benchmarks.material import Material
from benchmarks.rounds import Times, interleaved
from clipkd.core.flops import vit_flop
from clipkd.plugins import students
from clipkd.plugins.students import StudentSpec
from clipkd.runs.precision import resolved

LIBRARIES = ("timm", "transformers")
LIVE_STEPS, LIVE_ROUNDS = 1, 3
"""Steps per round, and rounds at most, where a teacher runs: one step takes as long as dozens without."""
STORED_REPEATS = 5
"""Steps per round of the contender beside these that runs no teacher."""


def gflop(spec: StudentSpec) -> float:
    """Return the operations of one training image, in GFLOP: a training step takes three forward passes."""
    return 3 * vit_flop(spec.width, spec.layers, spec.image_size, spec.patch_size) / 1e9


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return, per train type, the time of a step of each contender and its ratios."""
    student, size = options.student, options.batch_size
    result: dict[str, Any] = {"gflop_per_image": round(gflop(students.get(student)), 3)}
    dataset = material.dataset(options.steps * size)
    contenders = {
        "clipkd, cached": clipkd_epoch(material, dataset, student, "embed-KD", "cached", size, device),
        "peer": peer_epoch(material, dataset, student, "embed-KD", size, device),
    }
    for library in LIBRARIES:
        contenders[library] = peer_epoch(material, dataset, student, "embed-KD", size, device, library)
    if resolved("auto", device, students.get(student)) == "bf16":
        contenders["clipkd, cached, bf16"] = clipkd_epoch(
            material, dataset, student, "embed-KD", "cached", size, device, "bf16"
        )
    result["embed-KD"] = steps(interleaved(contenders, options.rounds), options.steps, size)
    dataset = material.dataset(LIVE_STEPS * size)
    for train_type in ("teacher-KD", "vanilla"):
        contenders = {
            "clipkd, cached": clipkd_epoch(material, dataset, student, train_type, "cached", size, device),
            "clipkd, live": clipkd_epoch(material, dataset, student, train_type, "live", size, device),
            "peer": peer_epoch(material, dataset, student, train_type, size, device),
        }
        repeats = {"clipkd, cached": STORED_REPEATS}
        times = interleaved(contenders, min(options.rounds, LIVE_ROUNDS), repeats)
        result[train_type] = steps(times, LIVE_STEPS, size)
    return result


def steps(times: dict[str, Times], count: int, batch_size: int) -> dict[str, Any]:
    """Return each contender's numbers per step, and how many times longer than the first the others take.

    A ratio is the median over rounds of the ratio within a round, so that a machine that slows down
    for some rounds does not move it.
    """
    first = next(iter(times.values()))
    entries = {}
    for name, taken in times.items():
        summary = taken.summary
        entries[name] = {key: value if key == "rounds" else round(value / count, 4) for key, value in summary.items()}
        entries[name]["images_per_cpu_second"] = round(batch_size * count / summary["cpu_s"], 2)
        for clock in ("cpu", "wall"):
            ratios = [other / mine for other, mine in zip(getattr(taken, clock), getattr(first, clock), strict=True)]
            entries[name][f"{clock}_ratio"] = round(statistics.median(ratios), 3)
    return entries
