"""Words that depend on a number."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return `1 vector`, `1,442 vectors`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def verb(count: int, one: str = "is", several: str = "are") -> str:
    """Return the form of a verb that goes with a number."""
    return one if count == 1 else several
