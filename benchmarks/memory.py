"""Peak memory of a training process on a CPU: each contender in a process of its own, which begins anew."""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.contenders import clipkd_epoch, peer_epoch
from benchmarks.material import Material
from clipkd.runs.outcome import peak_process_memory

STEPS = 4


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the most memory that a process holds, in bytes: torch alone, then a few steps of each contender."""
    if device.type != "cpu":
        return {"not_measured": "a GPU's memory stands beside its times: see `stack`"}
    material.teacher_folder  # noqa: B018  (made here, once)
    found = {"torch imported": in_new_process(peak_process_memory)}
    for train_type in ("embed-KD", "teacher-KD"):
        for name in ("clipkd", "peer"):
            arguments = (material.folder, material.teacher, options.student, options.batch_size, train_type, name)
            in_new_process(after_steps, *arguments, False)  # extraction's memory is not the training's
            found[f"{train_type}, {name}"] = in_new_process(after_steps, *arguments, True)
    return {"bytes": found, "steps": STEPS}


def in_new_process(function: Any, *arguments: Any) -> int:
    """Return what a function returns in a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def after_steps(
    folder: Path, teacher: str, student: str, batch_size: int, train_type: str, name: str, train: bool
) -> int:
    """Return this process's peak memory after an epoch of few steps; without `train`, after making what it reads."""
    torch.set_num_threads(1)
    material, device = Material(folder, teacher), torch.device("cpu")
    dataset = material.dataset(STEPS * batch_size)
    if name == "peer":
        epoch = peer_epoch(material, dataset, student, train_type, batch_size, device)
    else:
        epoch = clipkd_epoch(material, dataset, student, train_type, "cached", batch_size, device)
    if train:
        epoch()
    return peak_process_memory()
