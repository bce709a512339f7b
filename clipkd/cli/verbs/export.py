"""`clipkd export`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from clipkd.cli.options import names_option
from clipkd.core.errors import InputError
from clipkd.export import formats as exports
from clipkd.export.formats.onnx import Onnx

TEXT = "Export a trained student: as safetensors, as ONNX, or as a folder for the Hugging Face hub."
EXAMPLES = """\
examples:
  clipkd export results/runs/corrected/digits/tiny-32/none/supervised/seed0 exported --format hf --license mit
  clipkd export RUN exported-onnx --format onnx --check-on photos/
  clipkd export RUN exported-int8 --format onnx --int8
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder")
    child.add_argument(
        "folder", metavar="OUT", type=Path, help="output folder: new, empty, or an earlier export in this format"
    )
    child.add_argument(
        "--format",
        required=True,
        choices=exports.names(),
        help="; ".join(f"{name}: {exports.get(name).title}" for name in exports.names()),
    )
    child.add_argument(
        "--int8",
        action="store_true",
        help="with --format onnx: also write model_int8.onnx, with 8-bit weights; its accuracy and its agreement with "
        "the student are measured on the test split, for the model card and config.json",
    )
    child.add_argument("--license", default="other", help="license id for the model card, such as mit or cc-by-4.0")
    child.add_argument(
        "--check-on",
        nargs="+",
        metavar="IMAGE",
        help="images to compare an ONNX export with PyTorch on (default: the test split of the run's dataset)",
    )
    child.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets, for that comparison")
    names_option(child)


def run(options: argparse.Namespace) -> None:
    from clipkd.data import image_files
    from clipkd.export import write

    form = exports.get(options.format)
    for flag, is_given in (("--int8", options.int8), ("--check-on", options.check_on)):
        if is_given and not isinstance(form, Onnx):
            raise InputError(f"{flag} is for --format onnx, not {options.format}")
    images = image_files.listed(options.check_on or [], sys.stdin)
    if isinstance(form, Onnx) and options.int8:
        form = replace(form, int8=True)
    print(
        write.export(
            options.run_folder, form, options.folder, options.data, options.license, images, options.class_names
        )
    )
