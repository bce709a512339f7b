"""Students: one file is one student, a name for a network, its size and its input size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clipkd.errors import DataError, InputError
from clipkd.registry import find, specs


@dataclass(frozen=True)
class StudentSpec:
    """A CLIP-style vision transformer (paper.md, "Student"; names of OpenAI CLIP's visual tower)."""

    name: str
    image_size: int
    """Input side, in pixels."""
    patch_size: int
    width: int
    layers: int
    heads: int
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise InputError(
                f"student {self.name}: patch_size {self.patch_size} does not divide image_size {self.image_size}"
            )
        if self.width % self.heads:
            raise InputError(f"student {self.name}: heads {self.heads} does not divide width {self.width}")

    def identity(self) -> dict[str, Any]:
        """Return what makes this student, for a run's fingerprint."""
        return asdict(self)


def rebuilt(identity: dict[str, Any]) -> StudentSpec:
    """Return the student that `identity()` wrote down; a run folder keeps it, so that no name has to be known.

    Raises:
        DataError: it is no identity of a student that this version of clipkd knows.
    """
    try:
        return StudentSpec(**identity)
    except TypeError:
        raise DataError(f"no student of this version of clipkd is described by {sorted(identity)}") from None


def names() -> list[str]:
    """Return the names of all students."""
    return list(specs(__name__))


def get(name: str) -> StudentSpec:
    """Return the student `name`, case ignored; InputError names the nearest known one."""
    return find(__name__, "student", name)
