"""Weights of timm models: every one from a file, none left to chance. Imports torch."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clipkd.core.errors import MOST_NAMED, DataError


def fill(model: Any, stored: dict[str, Tensor], path: Path, name: str) -> None:
    """Put the weights of a file into a timm model, which must have the same ones in the same shapes.

    Names of older versions of timm are converted, and positions resized to the model's input, as timm does it.

    Raises:
        DataError: a weight is missing, unknown or of another shape; names them.
    """
    try:
        fitted = without_classifier(renamed(stored, model), model)
    except (AttributeError, KeyError, RuntimeError, ValueError) as error:
        raise DataError(f"{path} does not hold the weights of timm's {name}: {error}") from None
    load_exactly(model, fitted, path, f"timm's {name}")


def load_exactly(model: nn.Module, fitted: dict[str, Tensor], path: Path, name: str) -> None:
    """Load weights into a model that must have the same ones in the same shapes; DataError names those that differ."""
    wanted = model.state_dict()
    problems = [f"missing: {name}" for name in wanted if name not in fitted]
    problems += [f"unknown: {name}" for name in fitted if name not in wanted]
    problems += [
        f"shape of {name}: {tuple(fitted[name].shape)}, the model has {tuple(wanted[name].shape)}"
        for name in wanted
        if name in fitted and fitted[name].shape != wanted[name].shape
    ]
    if problems:
        listed = "\n  ".join(problems[:MOST_NAMED])
        raise DataError(f"{path} does not hold the weights of {name}, {len(problems)} differ:\n  {listed}")
    current = OrderedDict(fitted)
    current._metadata = wanted._metadata  # type: ignore[attr-defined]  # MNASNets refuse weights without a version
    model.load_state_dict(current)


def renamed(stored: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights as this version of timm names them, positions resized to the model's input."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return dict(convert(stored, model)) if convert else stored


def without_classifier(stored: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Return weights without those of a classifier that the model was made without."""
    heads = tuple(f"{name}." for name in classifiers(model.pretrained_cfg))
    own = set(model.state_dict())
    return {name: tensor for name, tensor in stored.items() if name in own or not name.startswith(heads)}


def classifiers(pretrained_cfg: Any) -> tuple[str, ...]:
    """Return the names of a timm model's classifiers; most have one."""
    named = pretrained_cfg.get("classifier") or []
    return tuple(map(str, named)) if isinstance(named, list | tuple) else (str(named),)
