"""The objective: a train type's loss, averaged over the teachers where there are several."""

from __future__ import annotations

from torch import Tensor

from clipkd.core.errors import InputError
from clipkd.plugins.methods import Losses, Method
from clipkd.plugins.recipes import Recipe
from clipkd.plugins.students._heads import Heads, Outputs


def objective(
    method: Method,
    student: Heads,
    outputs: Outputs,
    labels: Tensor,
    signal: Tensor | tuple[Tensor, ...] | None,
    recipe: Recipe,
    shares: tuple[float, ...] | None = None,
) -> Losses:
    """Return the loss of a batch and its parts.

    Of several teachers each has a projection of its own; what they share, the classification, is the same in each
    one's loss and in their mean. `shares`, with the sum 1, weight that mean; None: the same for each.
    """
    if not isinstance(signal, tuple):
        return named(method, method.loss(student, outputs, labels, signal, recipe))
    each = [
        named(method, method.loss(student.projection_head(number), outputs, labels, one, recipe))
        for number, one in enumerate(signal)
    ]
    if shares is None:
        return {part: sum(losses[part] for losses in each) / len(each) for part in each[0]}
    return {part: sum(share * losses[part] for share, losses in zip(shares, each, strict=True)) for part in each[0]}


def named(method: Method, parts: Losses) -> Losses:
    """Return what a train type returned as its losses; InputError where that is not what it must be (a plug-in)."""
    if not isinstance(parts, dict) or "loss" not in parts:
        raise InputError(
            f"train type '{method.name}': its loss() returned {type(parts).__name__}, not a dict of the batch's losses "
            "with 'loss' in it"
        )
    return parts
