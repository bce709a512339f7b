"""Words that depend on a number."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return `1 vector`, `1,442 vectors`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def verb(count: int) -> str:
    """Return `is` or `are`, as it goes with a number."""
    return "is" if count == 1 else "are"
