"""The machine of a record: which processor it has, what that can do, and how fast torch's libraries multiply on it.

Two processors of one displayed name can differ by half in what clipkd gains: a record says which one it was.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.material import Material
from clipkd.core import linear
from clipkd.plugins import students
from clipkd.plugins.students import StudentSpec
from clipkd.runs.folder import environment

CPUINFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "bf16")
"""Instructions that matrix products may use."""
VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "LD_PRELOAD")
"""Of the environment, what may change a benchmark's numbers."""
FIELDS = {"vendor_id": "vendor", "cpu family": "family", "model": "model", "stepping": "stepping"}
ROUNDS = 5


def origin(device: torch.device, module: str) -> dict[str, Any]:
    """Return when, with which command and where something is measured."""
    here = environment(device) | {"processor": processor()}
    here["variables"] = {name: value for name, value in here["variables"].items() if name in VARIABLES}
    command = " ".join([f"python -m {module}", *sys.argv[1:]])
    return {"date": datetime.now(UTC).date().isoformat(), "command": command, "machine": here}


def processor(cpuinfo: Path = CPUINFO) -> dict[str, Any]:
    """Return the processor's vendor, family, model, stepping and flags, as far as the system says."""
    if not cpuinfo.exists():
        return {}
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(said.get("flags", said.get("Features", "")).split())
    found = {name: said[key] for key, name in FIELDS.items() if key in said}
    return found | {"flags": [flag for flag in FLAGS if flag in flags]}


def record_name(machine: dict[str, Any]) -> str:
    """Return the name of a machine's record: the processor or GPU, of a processor its family and model too."""
    device, found = machine["device"], machine["processor"]
    words = [device["name"]]
    if device["kind"] == "cpu":
        words += [f"{name} {found[name]}" for name in ("family", "model") if name in found]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")


def measure(material: Material, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return GFLOP/s of each matrix product of a student's blocks, by library."""
    if device.type != "cpu":
        return {"not_measured": "MKL and oneDNN are libraries for CPUs"}
    blas = "mkl" if torch.backends.mkl.is_available() else "blas"
    libraries = {blas: lambda left, right: left @ right.t()}
    if torch.backends.mkldnn.is_available():
        libraries["onednn"] = linear.product
    found = {}
    for name, (rows, inner, columns) in shapes(students.get(options.student), options.batch_size).items():
        left, right = torch.randn(rows, inner), torch.randn(columns, inner)
        work = 2 * rows * inner * columns / 1e9
        found[name] = {"shape": [rows, inner, columns]} | {
            library: round(work / fastest(lambda: product(left, right)), 1)  # noqa: B023  (called at once)
            for library, product in libraries.items()
        }
    return {"products": found}


def shapes(spec: StudentSpec, batch_size: int) -> dict[str, tuple[int, int, int]]:
    """Return each product of a block: rows, inner length, columns."""
    rows, width = batch_size * ((spec.image_size // spec.patch_size) ** 2 + 1), spec.width
    layers = {
        "attention in": (width, 3 * width),
        "attention out": (width, width),
        "first of MLP": (width, 4 * width),
        "second of MLP": (4 * width, width),
    }
    found = {}
    for name, (inputs, outputs) in layers.items():
        found[f"{name}, forward"] = (rows, inputs, outputs)
        found[f"{name}, input gradient"] = (rows, outputs, inputs)
        found[f"{name}, weight gradient"] = (outputs, rows, inputs)
    return found


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds that work takes: the least of several rounds, after one to warm up."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
