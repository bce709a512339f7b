"""`clipkd benchmark`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkd.cli.options import positive
from clipkd.core.words import counted

if TYPE_CHECKING:
    from clipkd.export.measures import Measured
    from clipkd.runs.measured import Measurement

TEXT = "Measure a trained student's size and speed on this machine's CPU, in torch, ONNX Runtime and its int8."
EXAMPLES = """\
examples:
  clipkd benchmark results/runs/corrected/digits/tiny-32/none/supervised/seed0
  clipkd benchmark exported --threads 1
`clipkd evaluate RUN --measures speed` measures the same and writes it to a JSON file.
"""
RUNTIMES = {"torch": "torch", "onnx": "ONNX Runtime", "int8": "ONNX Runtime, int8"}


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder, or an export (safetensors or hf)")
    child.add_argument("--threads", type=positive, help="CPU threads of every runtime (default: torch's own choice)")


def run(options: argparse.Namespace) -> None:
    import torch

    from clipkd.core.progress import say
    from clipkd.export.measures import speed
    from clipkd.export.model import load

    if options.threads:
        torch.set_num_threads(options.threads)
    model = load(options.run_folder, "cpu")
    say("measuring in each runtime, which takes up to a minute; leave the machine idle meanwhile")
    found = speed.SPEC.of(model)
    print("\n".join(lines_of(found, model.preprocessing.size)))


def lines_of(found: Measured | Measurement, side: int) -> Iterator[str]:
    """Yield what `speed` measured of a student for images of `side` pixels: its size, and a table of times."""
    processor, threads = (found.details["processor"][key] for key in ("name", "threads"))
    yield f"parameters  {found.numbers['parameters']:,}"
    yield f"MACs        {found.numbers['macs']:,} for an image of {side} pixels"
    yield f"processor   {processor}, {counted(threads, 'thread')}"
    yield ""
    yield f"{'':<20}{'MB':>8}{'batch':>7}{'p50 ms':>10}{'p95 ms':>10}{'images/s':>10}"
    for runtime, title in RUNTIMES.items():
        if why := found.details["not_measured"].get(runtime):
            yield f"{title:<20}not measured: {why}"
        else:
            yield from times(title, found.numbers[f"{runtime}_megabytes"], found.details[runtime])


def times(title: str, megabytes: float, found: dict[str, Any]) -> Iterator[str]:
    """Yield the times of a runtime, a line for each batch size."""
    for number, (batch, timed) in enumerate(found.items()):
        first = f"{title:<20}{megabytes:>8.2f}" if number == 0 else " " * 28
        yield f"{first}{batch:>7}{timed['ms']:>10.2f}{timed['ms_p95']:>10.2f}{timed['images_per_second']:>10,.0f}"
