"""Preprocessing as timm describes it: `pretrained_cfg` of a config.json, followed as timm evaluates its models.

https://github.com/huggingface/pytorch-image-models, timm/data/config.py and transforms_factory.py.
"""

from __future__ import annotations

import math
from typing import Any

from clipkd.core.errors import DataError, InputError
from clipkd.embeddings.processor import Processor
from clipkd.plugins.teachers import TeacherSpec
from clipkd.plugins.teachers._folder import FILTER

CROP_PCT = 0.875
"""timm's, where a checkpoint gives none."""
FILTERS = ("bilinear", "bicubic")


def processor_of(spec: TeacherSpec, config: dict[str, Any]) -> Processor:
    """Return the preprocessing of a config.json of timm, or of one that clipkd wrote for torchvision.

    Raises:
        DataError: it gives no input size, mean or standard deviation.
        InputError: it asks for something that is not followed here.
    """
    values = config.get("pretrained_cfg")
    values = values if isinstance(values, dict) else {}
    found = [values.get(key) for key in ("input_size", "mean", "std")]
    size, mean, std = (tuple(one) if isinstance(one, list | tuple) else () for one in found)
    for key, numbers in (("input_size", size), ("mean", mean), ("std", std)):
        if len(numbers) != 3 or not all(isinstance(one, int | float) for one in numbers):
            raise DataError(f"teacher '{spec.name}': {key} in its config.json is {list(numbers)}, not three numbers")
    if min(std) <= 0:
        raise DataError(f"teacher '{spec.name}': std in its config.json is {list(std)}; a deviation is above 0")
    share = values.get("crop_pct", CROP_PCT)
    if share is None:
        share = CROP_PCT
    if not isinstance(share, int | float) or not share > 0:
        raise DataError(f"teacher '{spec.name}': crop_pct in its config.json is {share!r}, not a number above 0")
    if size[0] != 3 or size[1] != size[2]:
        raise refusal(spec, f"an input of {' x '.join(map(str, size))} (square colour images are supported)")
    side, filter_, mode = int(size[1]), values.get("interpolation") or FILTER, values.get("crop_mode") or "center"
    if filter_ not in FILTERS:
        raise refusal(spec, f"interpolation {filter_!r} (known: {', '.join(FILTERS)})")
    if mode not in ("center", "squash"):
        raise refusal(spec, f"crop_mode {mode!r} (known: center, squash)")
    scaled = values.get("resize_size") or math.floor(side / share)
    if not isinstance(scaled, int):
        raise DataError(f"teacher '{spec.name}': resize_size in its config.json is {scaled!r}, not a number of pixels")
    if scaled < side:
        raise refusal(spec, f"a crop of {side} pixels from {scaled}, with a border")
    width = scaled if mode == "squash" else None
    return Processor(scaled, width, side, filter_, mean, std, is_centre_rounded=True)


def refusal(spec: TeacherSpec, what: str) -> InputError:
    return InputError(f"teacher '{spec.name}' is refused: its preprocessing has {what}, which is not followed here")
