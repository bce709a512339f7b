"""Forms of class prototypes: one file is one way to make a class's vectors of its images' embeddings.

A form is a pure function of stored vectors. No torch here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from clipkd.core.errors import InputError, nearest
from clipkd.core.registry import find, specs


@dataclass(frozen=True)
class Form:
    """A way to make class prototypes."""

    name: str
    title: str
    centres: int | None = None
    """Vectors per class, for a form that takes a number: `kmeans-4`. None: the form takes none."""

    def make(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is kept of one class's embeddings [S, D], float64: `prototypes` and, of some forms, more.

        `prototypes` is [D], or [P, D] where a class has several.
        """
        raise NotImplementedError

    def prototypes(self, vectors: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
        """Return the arrays of all classes [C, ...], float32, from embeddings [S, D] and class numbers [S].

        Raises:
            InputError: a class has fewer images than the form needs.
        """
        vectors = vectors.astype(np.float64)
        made = [self.make(vectors[labels == number]) for number in range(classes)]
        return {name: np.stack([one[name] for one in made]).astype(np.float32) for name in made[0]}


SPEC_CLASS = Form
"""Of what other distributions add (clipkd/core/registry.py)."""


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., D] at length 1; NaN of one without a direction, which whoever makes prototypes refuses."""
    with np.errstate(invalid="ignore"):
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def names() -> list[str]:
    """Return the names of all forms; one that takes a number ends in `-K`."""
    return [name if spec.centres is None else f"{name}-K" for name, spec in specs(__name__).items()]


def get(name: str) -> Any:
    """Return the form `name`; InputError names the nearest known one."""
    base, _, number = name.rpartition("-")
    known = specs(__name__).get(base.lower())
    if known is not None and known.centres is not None:
        if not re.fullmatch("[1-9][0-9]{0,3}", number):
            raise InputError(f"prototype form '{name}': write the number of vectors per class, for example {base}-4")
        return replace(known, name=f"{known.name}-{number}", centres=int(number))
    if name.lower() not in specs(__name__):
        raise InputError(f"unknown prototype form '{name}'{meant(name)} (known: {', '.join(names())})")
    found = find(__name__, "prototype form", name)
    if found.centres is not None:
        raise InputError(f"prototype form '{name}' needs a number of vectors per class, for example {name}-4")
    return found


def meant(name: str) -> str:
    """Return ", did you mean 'x'?" for the known form closest to `name`, with its number where it takes one; or ""."""
    number = re.search("[1-9][0-9]{0,3}$", name)
    count = number[0] if number else "4"
    return nearest(name, [known.replace("-K", f"-{count}") for known in names()])


def refuse_too_few(form: str, per_class: int | Literal["all"]) -> None:
    """Raise InputError where a form needs more images per class than are drawn."""
    centres = get(form).centres
    if centres is not None and per_class != "all" and centres > per_class:
        raise InputError(
            f"'{form}' makes {centres} vectors per class of {per_class} images per class: take fewer vectors, or more "
            "images (prototypes.per_class in the config, or --per-class)"
        )
