"""`clipkd predict`."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from clipkd.cli.options import (
    device_of,
    device_options,
    file_to_write,
    is_stream,
    names_option,
    positive,
)
from clipkd.core.errors import DataError, InputError
from clipkd.core.files import written_aside
from clipkd.core.progress import progress, say
from clipkd.export.prediction import WRITERS
from clipkd.spec.layout import Layout

TEXT = "Classify images: the most likely classes of each, as CSV or JSON."
EXAMPLES = """\
examples:
  clipkd predict results/runs/corrected/digits/tiny-32/none/supervised/seed0 scan.png photos/
  find photos -name '*.jpg' | clipkd predict RUN - --format json --top 1 --output predictions.json
"""


def add_options(child: argparse.ArgumentParser) -> None:
    device_options(child)
    names_option(child)
    child.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder, or an export (safetensors or hf)")
    child.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files; folders, with all below them; - for a list on standard input"
    )
    child.add_argument("--format", choices=["csv", "json"], default="csv", help="one row, or one object, per answer")
    child.add_argument("--output", type=Path, help="file to write (default: standard output)")
    child.add_argument("--top", type=positive, default=5, help="number of classes, most likely first")
    child.add_argument("--batch-size", type=positive, default=64, help="batch size")
    child.add_argument(
        "--add-class",
        action="append",
        metavar="NAME",
        help="the name of a class that was not in training (only for embed-KD with a text tower as teacher); all "
        "classes are then predicted by their prototypes; may be repeated",
    )
    child.add_argument(
        "--data", type=Path, default=Path("data"), help="folder of the run's prototypes and text tower, for --add-class"
    )


def run(options: argparse.Namespace) -> None:
    if options.add_class and options.class_names:
        raise InputError("--add-class needs the class names of the run: drop --class-names")
    if options.output is not None and not is_stream(options.output):
        file_to_write(options.output, example=f"predictions.{options.format}")
    from clipkd.data import image_files
    from clipkd.export import model as models
    from clipkd.export import open_classes

    device = device_of(options)
    model = models.load(options.run_folder, device.type, options.class_names)
    paths = image_files.listed(options.images, sys.stdin)
    if options.add_class:
        classes = open_classes.of_run(options.run_folder, Layout(options.data), device).adding(options.add_class)
        model = replace(model, student=classes.network(), classes=list(classes.names), class_names=None)
    unreadable = 0
    predictions = model.predict_files(paths, options.top, options.batch_size)
    with output(options.output) as stream:
        writer = WRITERS[options.format](stream)
        for prediction in progress(predictions, len(paths), "predicting", "images"):
            if prediction.error is not None:
                unreadable += 1
                say(f"skipped: {prediction.error}")
            writer.write(prediction)
        writer.close()
    if unreadable == len(paths):
        raise DataError("no image could be read; see the messages above")
    if unreadable:
        say(f"{unreadable:,} of {len(paths):,} images could not be read; see the messages above")


@contextlib.contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    """Yield the stream to write to: a file that appears when it is complete, a device or pipe, or standard output."""
    if path is not None and is_stream(path):
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            yield stream
        return
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # a file name need not be UTF-8
        yield sys.stdout
        return
    with (
        written_aside(path) as aside,
        aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        yield stream
