"""torchvision, imported so that it works beside a CPU build of torch as well.

torchvision's wheels on package registries are CUDA builds. Their C library does not load beside a
CPU build of torch; its operators then stay undeclared, and torchvision's own Python code, which
registers further information about two of them, fails on import with "operator torchvision::nms
does not exist". transformers and timm import torchvision, so they fail as well.

Declaring those two operators, without an implementation, is enough for everything used here:
datasets, transforms and models. `torchvision.io` and `ops.nms` stay unusable; images are decoded
with PIL. Where the C library loads, nothing is declared.

Use: `from clipkd.core.vision import torchvision`, before anything that imports torchvision by itself.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

__all__ = ["torchvision"]

MISSING_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def c_library_loads() -> bool:
    """Return whether torchvision's C library, the one that declares its operators, can be loaded."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    folder = Path(spec.origin).parent
    libraries = [path for suffix in ("so", "pyd", "dylib") for path in folder.glob(f"_C*.{suffix}")]
    try:
        for path in libraries:
            torch.ops.load_library(path)
    except OSError:
        return False
    return bool(libraries)


def declare_operators() -> torch.library.Library:
    """Declare the operators that torchvision's Python code expects; they last as long as the result."""
    library = torch.library.Library("torchvision", "DEF")
    for signature in MISSING_OPERATORS:
        library.define(signature)
    return library


# Kept for the life of the process: an operator goes when its Library object does.
_declared = None if "torchvision" in sys.modules or c_library_loads() else declare_operators()

import torchvision  # noqa: E402
