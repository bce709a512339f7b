"""An ONNX graph with 8-bit weights, made by ONNX Runtime, and how far it agrees with the student."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from clipkd.core.progress import progress, say
from clipkd.export.subject import Subject

if TYPE_CHECKING:
    import onnxruntime

GRAPH = "model_int8.onnx"
CALIBRATION, CALIBRATION_BATCH = 256, 32
"""Training images, seen in steps, that the ranges of a convolutional student's activations are read off."""
FEW_AGREE = 0.98
"""Where the two classify fewer test images alike, it is said aloud."""


def is_convolutional(graph: Path) -> bool:
    """Return whether most weights of a graph are those of convolutions."""
    import onnx

    found = onnx.load(str(graph)).graph
    sizes = {one.name: math.prod(one.dims) for one in found.initializer}
    inside = {name for node in found.node if node.op_type == "Conv" for name in node.input}
    return 2 * sum(sizes.get(name, 0) for name in inside) > sum(sizes.values())


def quantise(graph: Path, target: Path, images: Iterator[np.ndarray]) -> str:
    """Write a graph with 8-bit weights, one scale for each output channel; return how, `static` or `dynamic`.

    Convolutions get the ranges of their inputs beforehand (static): ONNX Runtime has no fast kernel for others. Matrix
    products find theirs for each batch (dynamic), which measured better and faster on transformers
    (docs/deployment.md, "int8"). Only the kind that holds most weights is in 8 bits.

    Args:
        graph: the graph in float32.
        target: the file to write.
        images: some batches of the student's size, uint8 [B, S, S, 3]; read for convolutions only.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(images, None)
            return None if batch is None else {"images": batch}

    usual = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it logs advice on its own steps
    try:
        with TemporaryDirectory(dir=target.parent) as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
            if not is_convolutional(graph):
                quantize_dynamic(
                    prepared, target, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                    weight_type=QuantType.QInt8,
                )  # fmt: skip
                return "dynamic"
            quantize_static(
                prepared, target, Images(), QuantFormat.QDQ, op_types_to_quantize=["Conv"], per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            return "static"
    finally:
        logging.disable(usual)


def calibration(subject: Subject) -> Iterator[np.ndarray]:
    """Yield some labelled training images, the same for the same run, as batches at the student's size."""
    rows = subject.labelled.training
    chosen = np.random.default_rng(0).choice(rows, min(CALIBRATION, len(rows)), replace=False)
    for batch in subject.batches(np.sort(chosen), CALIBRATION_BATCH):
        yield subject.images("train", batch)


def write(graph: Path, target: Path, subject: Subject) -> dict[str, Any]:
    """Write a graph in 8 bits; return how it was made and what it does on the test split."""
    from clipkd.export.onnx_session import opened

    method = quantise(graph, target, calibration(subject))
    facts = {
        "file": target.name,
        "method": method,
        "calibration_images": min(CALIBRATION, len(subject.labelled.training)) if method == "static" else 0,
        "bytes": target.stat().st_size,
        "float32_bytes": graph.stat().st_size,
        **agreement(opened(target), subject),
    }
    if facts["agreement"] < FEW_AGREE:
        say(
            f"{target.name} gives the student's class for only {100 * facts['agreement']:.1f} % of the test images "
            f"(top-1 {100 * facts['top1']:.2f} % instead of {100 * facts['student_top1']:.2f} %): consider model.onnx"
        )
    return facts


def agreement(session: onnxruntime.InferenceSession, subject: Subject) -> dict[str, Any]:
    """Return how often a graph and the student give the same likeliest class, and how often each is right, on the
    test split."""
    labels = subject.dataset.test_labels
    alike = right = student_right = 0
    batches = list(subject.batches(np.arange(len(labels))))
    for rows in progress(batches, len(batches), "comparing int8 with float32 on the test images"):
        images = subject.images("test", rows)
        (logits,) = session.run(["logits"], {"images": images})
        expected = subject.model.forward(list(images), lambda outputs: outputs.logits).argmax(axis=1)
        found = logits.argmax(axis=1)
        alike += int((found == expected).sum())
        right += int((found == labels[rows]).sum())
        student_right += int((expected == labels[rows]).sum())
    total = len(labels)
    return {
        "test_images": total, "agreement": alike / total, "top1": right / total, "student_top1": student_right / total
    }  # fmt: skip
