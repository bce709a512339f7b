"""ONNX: the student with its normalisation in one graph, checked against PyTorch before it is put in place."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.files import write_json, write_text
from clipkd.export.files import CARD, CONFIG
from clipkd.export.formats import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clipkd.data.preprocessing import Picture
    from clipkd.export.model import Model
    from clipkd.export.source import ExportSource

GRAPH = "model.onnx"
ALLOWED = {"logits": 1e-3, "probabilities": 1e-4, "embedding": 1e-3}
"""Difference between ONNX Runtime's and PyTorch's outputs; relative to the largest number, where that is above 1."""
BATCHES = (1, 7)
"""Batch sizes at which the graph is checked; neither is the one it was traced with."""
TRACED_BATCH = 2


@dataclass(frozen=True)
class Onnx(Format):
    """Input `images`, uint8 [N, S, S, 3]; outputs `logits`, `probabilities` [N, C] and `embedding` [N, W]."""

    int8: bool = False
    """Whether a graph with 8-bit weights is written beside the other one."""

    def write(self, source: ExportSource, folder: Path) -> dict[str, Any]:
        from clipkd.export import int8
        from clipkd.export.model_card import card

        if len(source.images) < max(BATCHES):
            raise InputError(
                f"an ONNX export is checked against PyTorch on at least {max(BATCHES)} images, but {too_few(source)}"
            )
        check_packages()
        if self.int8 and source.subject is None:
            raise InputError(
                f"int8 is measured on the run's own test images: {absent(source)}; pack it as for the run (`clipkd "
                "download`), or drop --int8"
            )
        write_graph(source.model, folder / GRAPH)
        facts = compare(source.model, folder / GRAPH, source.images)
        if self.int8 and source.subject:
            facts["int8"] = int8.write(folder / GRAPH, folder / int8.GRAPH, source.subject)
        described = {"label_names": source.model.names, "onnx": facts, "clipkd": source.description}
        write_json(folder / CONFIG, described)
        write_text(folder / CARD, card(source, self.name, facts.get("int8")))
        return facts

    def options(self) -> dict[str, Any]:
        return {"int8": True} if self.int8 else {}


def too_few(source: ExportSource) -> str:
    """Return how few images there are to check on, and what to do."""
    count = len(source.images)
    if source.are_given:
        return f"--check-on names {count}: add {max(BATCHES) - count} more, or a folder of images"
    why = f"the run's dataset has {count} test images" if count else absent(source)
    return f"{why}: name images with --check-on FILE_OR_FOLDER"


def absent(source: ExportSource) -> str:
    """Return why the images of a run are not at hand."""
    return (
        f"dataset '{source.metrics.cell.dataset}' is not below --data, or is packed with other images or other options "
        "than for the run"
    )


def check_packages() -> None:
    """Raise MachineError where a package for ONNX is not installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MachineError(f"the package {missing[0]} is not installed; run `pip install 'clipkd[onnx]'`")


def write_graph(model: Model, path: Path) -> None:
    """Write the student as an ONNX graph of any batch size."""
    import torch

    from clipkd.data.pixels import normalised, unit

    class WithPreprocessing(torch.nn.Module):
        """Pixels to logits, probabilities and embedding."""

        def __init__(self) -> None:
            super().__init__()
            self.student = model.student

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            steps = model.preprocessing
            outputs = self.student(normalised(unit(images.permute(0, 3, 1, 2)), steps.mean, steps.std))
            return outputs.logits, outputs.logits.softmax(dim=1), outputs.embedding

    size = model.preprocessing.size
    example = torch.zeros((TRACED_BATCH, size, size, 3), dtype=torch.uint8)
    # The exporter prints its progress to standard output and warns about its own internals.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        torch.onnx.export(
            WithPreprocessing().eval(),
            (example,),
            path,
            input_names=["images"],
            output_names=["logits", "probabilities", "embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            external_data=False,
            dynamo=True,
        )


def compare(model: Model, path: Path, images: Sequence[Picture]) -> dict[str, Any]:
    """Return the largest difference between ONNX Runtime's and PyTorch's probabilities on real images.

    Raises:
        DataError: an output differs by more than rounding.
    """
    import numpy as np

    from clipkd.export.onnx_session import opened

    expected = {
        "logits": model.outputs(images, len(images), lambda outputs: outputs.logits),
        "probabilities": model.probabilities(images),
        "embedding": model.outputs(images, len(images), lambda outputs: outputs.embedding),
    }
    pixels = np.stack([model.preprocessing.read(image) for image in images])
    session = opened(path)
    largest = dict.fromkeys(expected, 0.0)
    for size in (*BATCHES, len(pixels)):
        for name, found in zip(expected, session.run(list(expected), {"images": pixels[:size]}), strict=True):
            # numpy's maximum: of what is not a number, Python's would keep the other.
            difference = np.abs(found - expected[name][:size]).max() / max(1.0, np.abs(expected[name]).max())
            largest[name] = float(np.maximum(largest[name], difference))
    for name, difference in largest.items():
        if not difference <= ALLOWED[name]:
            raise DataError(
                f"the ONNX graph does not match the student: {name} differ by up to {difference:.2g} on {len(pixels)} "
                f"images (allowed: {ALLOWED[name]:g}); nothing was written"
            )
    return {
        "images": len(pixels), "largest_difference": largest["probabilities"], "runtime": version("onnxruntime"),
    }  # fmt: skip


SPEC = Onnx(name="onnx", title="model.onnx with its normalisation inside, for ONNX Runtime", is_checked=True)
