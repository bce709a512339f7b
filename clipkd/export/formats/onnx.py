"""ONNX: the student with its normalisation in one graph, checked against PyTorch before it is put in place."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.export.formats import CONFIG, Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clipkd.data.preprocessing import Picture
    from clipkd.export.model import Model
    from clipkd.export.write import Source

GRAPH = "model.onnx"
LARGEST_DIFFERENCE = 1e-4
"""Allowed between ONNX Runtime's and PyTorch's probabilities."""
BATCHES = (1, 7)
"""Sizes at which the graph is checked: another than the one it was traced with among them."""
TRACED = 2


@dataclass(frozen=True)
class Onnx(Format):
    """Input `images`, uint8 [N, S, S, 3]; outputs `logits`, `probabilities` [N, C] and `embedding` [N, W]."""

    def write(self, source: Source, folder: Path) -> dict[str, Any]:
        from clipkd.core.artifacts import write_json
        from clipkd.core.errors import InputError

        if len(source.pictures) < max(BATCHES):
            raise InputError(
                f"an ONNX file is checked against PyTorch on {max(BATCHES)} real images or more, and {too_few(source)}"
            )
        needed()
        traced(source.model, folder / GRAPH)
        facts = compared(source.model, folder / GRAPH, source.pictures)
        write_json(folder / CONFIG, {"clipkd": source.described, "onnx": facts})
        return facts


def too_few(source: Source) -> str:
    """Return how few images there are to check on, and what to do."""
    count = len(source.pictures)
    if source.is_named:
        return f"--check-on names {count}: name {max(BATCHES) - count} more, or a folder of images"
    dataset = f"has {count} in its test split" if count else "is not here"
    return f"the run's dataset {dataset}: name images with --check-on FILE OR FOLDER"


def needed() -> None:
    """Raise MachineError where the packages for ONNX are not installed."""
    from importlib.util import find_spec

    from clipkd.core.errors import MachineError

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MachineError(f"the package {missing[0]} is not installed: pip install 'clipkd[onnx]'")


def traced(model: Model, path: Path) -> None:
    """Write the student as an ONNX graph of any batch size."""
    import torch

    from clipkd.data.pixels import normalised, unit

    class Whole(torch.nn.Module):
        """Pixels in, everything that is known of them out."""

        def __init__(self) -> None:
            super().__init__()
            self.student = model.student

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            steps = model.preprocessing
            outputs = self.student(normalised(unit(images.permute(0, 3, 1, 2)), steps.mean, steps.std))
            return outputs.logits, outputs.logits.softmax(dim=1), outputs.embedding

    size = model.preprocessing.size
    example = torch.zeros((TRACED, size, size, 3), dtype=torch.uint8)
    # The exporter reports its progress on standard output and warns of what is no concern of the user's.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        torch.onnx.export(
            Whole().eval(),
            (example,),
            path,
            input_names=["images"],
            output_names=["logits", "probabilities", "embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            external_data=False,
            dynamo=True,
        )


def compared(model: Model, path: Path, pictures: Sequence[Picture]) -> dict[str, Any]:
    """Return how far ONNX Runtime's probabilities are from PyTorch's on real images.

    Raises:
        DataError: they differ by more than rounding.
    """
    import numpy as np
    import onnxruntime

    from clipkd.core.errors import DataError

    wanted = model.probabilities(pictures)
    pixels = np.stack([model.preprocessing.read(picture) for picture in pictures])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for size in (*BATCHES, len(pixels)):
        (found,) = session.run(["probabilities"], {"images": pixels[:size]})
        largest = max(largest, float(np.abs(found - wanted[:size]).max()))
    if not largest <= LARGEST_DIFFERENCE:
        raise DataError(
            f"the ONNX graph does not compute what the student computes: probabilities differ by {largest:.2g} on "
            f"{len(pixels)} images (allowed: {LARGEST_DIFFERENCE:g}); nothing was written"
        )
    return {"images": len(pixels), "largest_difference": largest, "runtime": onnxruntime.__version__}


SPEC = Onnx(name="onnx", title="model.onnx with its normalisation inside, for ONNX Runtime", is_checked=True)
