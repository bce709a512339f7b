"""The device that computes, and what it is called in records."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from clipkd.core.errors import InputError, nearest

KINDS = ("auto", "cpu", "cuda")


def choose(name: str = "auto") -> torch.device:
    """Return the device `auto`, `cpu` or `cuda`; InputError where there is no such device."""
    if name.partition(":")[0] not in KINDS:
        raise InputError(f"unknown device '{name}'{nearest(name, KINDS)} (valid: {', '.join(KINDS)})")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device '{name}' is not available: torch finds no CUDA GPU; use 'auto' or 'cpu'")
    return torch.device(name)


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor on a device, without waiting until it is there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def has_tf32(device: torch.device) -> bool:
    """Return whether a device multiplies in TF32: GPUs from Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


@contextlib.contextmanager
def float32_products(kind: Literal["float32", "tf32"], device: torch.device) -> Iterator[None]:
    """Compute matrix products and convolutions of float32 in full, or in TF32, on a GPU; on a CPU always in full.

    TF32 keeps 10 of the 23 bits of each factor's mantissa, and sums in float32. (torch's own choice is full products,
    and convolutions in TF32.)
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = kind == "tf32" and device.type == "cuda"
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def describe(device: torch.device) -> dict[str, Any]:
    """Return the device's kind, name and, for a CPU, threads."""
    if device.type == "cuda":
        return {"kind": "cuda", "name": torch.cuda.get_device_name(device), "threads": torch.get_num_threads()}
    return {"kind": "cpu", "name": processor_name(), "threads": torch.get_num_threads()}


def products() -> Literal["float32", "tf32"]:
    """Return what products of float32 are computed in on a GPU, now."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "float32"


def processor_name() -> str:
    """Return the CPU's model name."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first processor; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.partition("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
