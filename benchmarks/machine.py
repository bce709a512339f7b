"""The machine of a record: which processor it has, what that can do, and how fast torch's libraries multiply on it.

Two processors of one displayed name can differ by half in what clipkd gains: a record says which one it was.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import cpuinfo
from benchmarks.material import Material
from clipkd.core import linear
from clipkd.core.processor import least_seconds
from clipkd.plugins import students
from clipkd.plugins.students import StudentSpec
from clipkd.runs.folder import environment

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""Instructions that matrix products may use."""
VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "LD_PRELOAD")
"""Of the environment, what may change a benchmark's numbers."""
ROUNDS = 5


def origin(device: torch.device, module: str) -> dict[str, Any]:
    """Return when, with which command and where something is measured."""
    here = environment(device) | {"processor": processor()}
    here["variables"] = {name: value for name, value in here["variables"].items() if name in VARIABLES}
    command = " ".join([f"python -m {module}", *sys.argv[1:]])
    return {"date": datetime.now(UTC).date().isoformat(), "command": command, "machine": here}


def processor(path: Path = cpuinfo.CPUINFO) -> dict[str, Any]:
    """Return the processor's vendor, family, model, stepping and flags, as far as the system says."""
    told = cpuinfo.said(path)
    flags = set(told.get("flags", told.get("Features", "")).split())
    return cpuinfo.fields(told) | {"flags": [flag for flag in FLAGS if flag in flags]} if told else {}


def record_name(machine: dict[str, Any]) -> str:
    """Return the name of a machine's record: the processor or GPU, of a processor its family and model too."""
    device, found = machine["device"], machine["processor"]
    words = [device["name"]]
    if device["kind"] == "cpu":
        words += [f"{name} {found[name]}" for name in cpuinfo.NAMING if name in found]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return GFLOP/s of each matrix product of a student's blocks, by library."""
    if device.type != "cpu":
        return {"not_measured": "MKL and oneDNN are libraries for CPUs"}
    libraries = {"mkl" if torch.backends.mkl.is_available() else "blas": linear.OWN}
    if torch.backends.mkldnn.is_available():
        libraries["onednn"] = linear.ALL
    found = {}
    for layer, (rows, inputs, outputs) in shapes(students.get(options.student), options.batch_size).items():
        x, weight, dy = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        work = 2 * rows * inputs * outputs / 1e9
        for name, product in linear.products(x, weight, None, dy).items():
            took = least_seconds({key: partial(product, chosen) for key, chosen in libraries.items()}, ROUNDS)
            speeds = {library: round(work / seconds, 1) for library, seconds in took.items()}
            found[f"{layer}, {name}"] = {"shape": [rows, inputs, outputs]} | speeds
    return {"products": found, "taken from oneDNN": sorted(linear.chosen_here())}


def shapes(spec: StudentSpec, batch_size: int) -> dict[str, tuple[int, int, int]]:
    """Return the linear layers of a block: rows, inputs, outputs."""
    rows, width = batch_size * ((spec.image_size // spec.patch_size) ** 2 + 1), spec.width
    return {
        "attention in": (rows, width, 3 * width),
        "attention out": (rows, width, width),
        "first of MLP": (rows, width, 4 * width),
        "second of MLP": (rows, 4 * width, width),
    }
