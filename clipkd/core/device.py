"""The device that computes, and what it is called in records."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from clipkd.core.errors import InputError, nearest

KINDS = ("auto", "cpu", "cuda")


def choose(name: str = "auto") -> torch.device:
    """Return the device `auto`, `cpu` or `cuda`; InputError where there is no such device."""
    if name.partition(":")[0] not in KINDS:
        raise InputError(f"unknown device '{name}'{nearest(name, KINDS)} (valid: {', '.join(KINDS)})")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available: torch finds no CUDA GPU; use 'auto' or 'cpu'")
    return torch.device(name)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor on a device, without waiting until it is there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def describe(device: torch.device) -> dict[str, Any]:
    """Return the device's kind, name and, for a CPU, threads."""
    if device.type == "cuda":
        return {"kind": "cuda", "name": torch.cuda.get_device_name(device), "threads": torch.get_num_threads()}
    return {"kind": "cpu", "name": processor_name(), "threads": torch.get_num_threads()}


def processor_name() -> str:
    """Return the CPU's model name."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpuinfo(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what Linux says of the first processor; nothing on other systems."""
    lines = (
        path.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines() if path.exists() else []
    )
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
