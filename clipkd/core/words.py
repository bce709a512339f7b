"""Words that depend on a number."""

from __future__ import annotations


def counted(count: int, noun: str, nouns: str = "") -> str:
    """Return `1 vector`, `1,442 vectors`; `nouns`: the plural where it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def verb(count: int) -> str:
    """Return `is` or `are`, as it goes with a number."""
    return "is" if count == 1 else "are"
