"""Speed: parameters, multiplications, size, and how long the student takes on this machine's CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clipkd.core.errors import MachineError
from clipkd.export.measures import Measure, Measured

if TYPE_CHECKING:
    from torch import nn

    from clipkd.export.model import Model
    from clipkd.export.subject import Subject

BATCHES = (1, 64)
WARM_UP, CALLS, LEAST, SECONDS = 3, 100, 10, 3.0
"""Calls before the measurement; in it at most, and at least; after so many seconds there are no more."""


class Speed(Measure):
    """Of the student as it classifies: 8-bit pixels of its own size in, class scores out; on the CPU, in float32 and
    with 8-bit weights (`int8`).

    MACs are multiplications of one image in matrix products and convolutions, counted while it runs. Milliseconds are
    the median wall time of a batch, and images/s go by it.
    """

    def measure(self, subject: Subject) -> Measured:
        return self.of(subject.model)

    def of(self, model: Model) -> Measured:
        """Measure a student, for which no dataset is needed."""
        import torch

        from clipkd.core.device import describe

        cpu = torch.device("cpu")
        model = replace(model, student=deepcopy(model.student).cpu().eval(), device=cpu)
        details: dict[str, Any] = {"processor": describe(cpu), "torch": of_torch(model)}
        megabytes, missing = {"torch": 4 * model.parameters / 1e6}, {}
        try:
            for runtime, (found, size) in of_onnx(model).items():
                details[runtime], megabytes[runtime] = found, size / 1e6
        except MachineError as reason:
            missing = dict.fromkeys(("onnx", "int8"), str(reason))
        numbers: dict[str, float] = {
            "parameters": model.parameters,
            "macs": multiplications(model.student, model.preprocessing.size),
        }
        for runtime, size in megabytes.items():
            numbers[f"{runtime}_megabytes"] = size
            for batch, timed in details[runtime].items():
                numbers |= {f"{runtime}_{name}_{batch}": timed[name] for name in ("ms", "images_per_second")}
        return Measured(numbers, details | {"not_measured": missing})


def multiplications(student: nn.Module, size: int) -> int:
    """Return the multiplications of one image, of side `size`.

    torch's counter sees attention that is written out, and is told of the linear layers of clipkd/core/linear.py.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    def linear(rows: torch.Size, matrix: torch.Size, *rest: Any, **named: Any) -> int:
        return 2 * rows.numel() * matrix[0]

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: linear})
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        student(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops()) // 2


def of_torch(model: Model) -> dict[str, dict[str, float]]:
    """Return batch size -> times in torch."""
    import torch

    from clipkd.data.pixels import normalised, unit

    steps = model.preprocessing

    def call(size: int) -> Callable[[], object]:
        images = torch.zeros(size, 3, steps.size, steps.size, dtype=torch.uint8)
        return lambda: model.student(normalised(unit(images), steps.mean, steps.std)).logits

    with torch.inference_mode():
        return {str(size): times(call(size), size) for size in BATCHES}


def of_onnx(model: Model) -> dict[str, tuple[dict[str, dict[str, float]], float]]:
    """Return, for `onnx` and `int8`, batch size -> times in ONNX Runtime, and the bytes of the graph.

    The 8-bit graph's ranges are those of noise: they make no difference to its times.

    Raises:
        MachineError: a package for ONNX is not installed, or there is no classifier.
    """
    from clipkd.export import int8
    from clipkd.export.formats.onnx import GRAPH, check_packages, write_graph

    if not model.classes:
        raise MachineError("the student was trained without labels: it has no classifier to export")
    check_packages()
    import numpy as np

    side = model.preprocessing.size
    noise = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), np.uint8)
    with TemporaryDirectory() as folder:
        graphs = {"onnx": Path(folder) / GRAPH, "int8": Path(folder) / int8.GRAPH}
        write_graph(model, graphs["onnx"])
        int8.quantise(graphs["onnx"], graphs["int8"], iter([noise]))
        return {name: (of_graph(path, side), path.stat().st_size) for name, path in graphs.items()}


def of_graph(graph: Path, side: int) -> dict[str, dict[str, float]]:
    """Return batch size -> times of a graph, with as many threads as torch."""
    import numpy as np
    import torch

    from clipkd.export.onnx_session import opened

    session = opened(graph, torch.get_num_threads())

    def call(size: int) -> Callable[[], object]:
        images = np.zeros((size, side, side, 3), np.uint8)
        return lambda: session.run(["logits"], {"images": images})

    return {str(size): times(call(size), size) for size in BATCHES}


def times(call: Callable[[], object], images: int) -> dict[str, float]:
    """Return the median and the 95th percentile of a call's milliseconds, the images per second, and the calls."""
    import numpy as np

    for _ in range(WARM_UP):
        call()
    taken: list[float] = []
    while len(taken) < LEAST or (len(taken) < CALLS and sum(taken) < SECONDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    middle, late = (float(value) for value in np.percentile(taken, (50, 95)))
    return {"ms": 1e3 * middle, "ms_p95": 1e3 * late, "images_per_second": images / middle, "calls": len(taken)}


SPEC = Speed(
    name="speed",
    title="parameters, MACs, sizes, and times on the CPU in torch, ONNX Runtime and its int8",
    protocol=2,
    needs_classes=False,
)
