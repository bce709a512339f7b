"""What Linux says of the processor. No torch here: a child's peak memory begins with its parent's."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
FIELDS = {"vendor_id": "vendor", "cpu family": "family", "model": "model", "stepping": "stepping"}
NAMING = ("family", "model")
"""Fields that tell processors of one displayed name apart."""


def said(cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Return field -> what is said of the first processor; nothing on other systems."""
    if not cpuinfo.exists():
        return {}
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def fields(told: dict[str, str]) -> dict[str, str]:
    """Return vendor, family, model and stepping, as far as they are known."""
    return {name: told[key] for key, name in FIELDS.items() if key in told}


def name() -> str:
    """Return the processor's name, with its family and model where they are known."""
    told = said()
    more = ", ".join(f"{one} {value}" for one, value in fields(told).items() if one in NAMING)
    return told.get("model name", platform.machine()) + (f" ({more})" if more else "")
