"""A saved student, rebuilt from what its run or export says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipkd.core.errors import DataError
from clipkd.plugins.students import rebuilt
from clipkd.plugins.students._heads import Heads
from clipkd.plugins.students._saved import State, student_from
from clipkd.plugins.students._timm_names import from_timm


def described_student(description: dict[str, Any], state: State, path: Path, aside: State | None = None) -> Heads:
    """Return the network that a description is of, with its weights.

    Args:
        description: the `student`, and the `names` of its weights: `clipkd` (the default) or `timm`.
        state: the weights.
        path: their file, for messages.
        aside: of weights under timm's names, those that timm has none for: the projections; None: they are left out.

    Raises:
        DataError: the weights do not fit.
    """
    spec, names = rebuilt(description["student"]), description.get("names", "clipkd")
    if names not in {"clipkd", "timm"}:
        raise DataError(f"{path} was exported by an older version of clipkd; export the run again")
    try:
        state = from_timm(state, aside or {}, spec) if names == "timm" else state
    except KeyError as error:
        raise DataError(f"{path} does not fit student '{spec.name}': missing: {error.args[0]}") from None
    return student_from(state, spec, path)
