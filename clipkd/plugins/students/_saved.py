"""A saved student's network: its classes and projections are read off its weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from clipkd.core.errors import DataError
from clipkd.plugins.students import NetworkSpec
from clipkd.plugins.students._heads import Heads, Widths

State = dict[str, Tensor]
"""A network's weights by name."""
SHOWN = 3
"""Weights that a message names, where a file does not fit a student."""


class Misfit(DataError):
    """A file holds another student than it is read as."""


def student_from(state: State, spec: NetworkSpec, path: Path) -> Heads:
    """Return the network that a state dict fits; its classes and projections are read off the weights.

    Raises:
        Misfit: weights are missing, unexpected or mis-shaped; the message says how many, and names the first.
        DataError: there is no classifier among them.
    """
    classifier = state.get("classifier.weight")
    if classifier is None or classifier.ndim != 2:
        raise DataError(f"{path} holds no student: it lacks 'classifier.weight'")
    classes, width = classifier.shape
    target_width, projection = projections(state, width)
    learnable = "logit_scale" in state or "logit_scales.0" in state
    student = spec.network(classes, target_width, projection, learnable)
    if "logit_bias" in state or "logit_biases.0" in state:
        student.add_logit_biases()
    wanted = student.state_dict()
    problems = [f"missing: {name}" for name in wanted.keys() - state.keys()]
    problems += [f"unexpected: {name}" for name in state.keys() - wanted.keys()]
    problems += [
        f"mis-shaped: {name} {tuple(state[name].shape)}, student '{spec.name}' has {tuple(wanted[name].shape)}"
        for name in wanted.keys() & state.keys()
        if state[name].shape != wanted[name].shape
    ]
    if problems:
        lines = "\n  ".join(sorted(problems)[:SHOWN])
        raise Misfit(f"{path} does not fit student '{spec.name}', {len(problems)} weights differ:\n  {lines}")
    student.load_state_dict(state)
    return student


def projections(state: State, width: int) -> tuple[Widths, str]:
    """Return the dimensions of the teachers' vectors, and the side that the projections stand on."""
    several = [state[name] for number in range(len(state)) if (name := f"cluster_projections.{number}.weight") in state]
    found = several or [state[name] for name in ("cluster_projection.weight",) if name in state]
    if not found:
        return None, "teacher"
    # P maps D to W on the teacher's side: its rows are W. Where D = W the side makes no difference to the shapes.
    on_teacher = all(weight.shape[0] == width for weight in found)
    widths = tuple(weight.shape[1 if on_teacher else 0] for weight in found)
    return widths if several else widths[0], "teacher" if on_teacher else "student"
