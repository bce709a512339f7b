"""`clipkd demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.cli.options import device_of, device_options, names_option, positive

TEXT = "Serve a page on this machine on which one drops an image and sees its most likely classes."
EXAMPLES = """\
example:
  clipkd demo results/runs/corrected/digits/tiny-32/none/supervised/seed0
"""


def add_options(child: argparse.ArgumentParser) -> None:
    device_options(child)
    names_option(child)
    child.add_argument("run_folder", metavar="RUN", type=Path, help="a run folder, or an export (safetensors or hf)")
    child.add_argument("--top", type=positive, default=5, help="number of classes, most likely first")
    child.add_argument("--port", type=positive, help="port on 127.0.0.1 (default: the first free one from 7860 on)")


def run(options: argparse.Namespace) -> None:
    from clipkd.export import demo
    from clipkd.export.model import load

    demo.check_package()
    device = device_of(options)
    demo.serve(load(options.run_folder, device.type, options.class_names), options.top, options.port)
