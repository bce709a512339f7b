"""Findings of a check-up: what is right, what may go wrong, what can't work."""

from __future__ import annotations

from dataclasses import dataclass, field

from clipkd.core.errors import MachineError


@dataclass(frozen=True)
class Finding:
    """One line of a check-up."""

    level: str
    """`ok`, `warning` or `error`."""
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.what}: {self.text}"


@dataclass
class Findings:
    """What a check-up found, in order."""

    found: list[Finding] = field(default_factory=list)

    def ok(self, what: str, text: str) -> None:
        self.found.append(Finding("ok", what, text))

    def warn(self, what: str, text: str) -> None:
        self.found.append(Finding("warning", what, text))

    def error(self, what: str, text: str) -> None:
        self.found.append(Finding("error", what, text))

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.found if finding.level == "error"]

    def refuse_errors(self) -> None:
        """Raise MachineError where something can't work; the message names all of it."""
        if self.errors:
            raise MachineError("\n  ".join(f"{finding.what}: {finding.text}" for finding in self.errors))
