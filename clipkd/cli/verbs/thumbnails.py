"""`clipkd thumbnails`."""

from __future__ import annotations

import argparse

from clipkd.cli.options import data_options, dataset_of, layout_of, positive
from clipkd.core.errors import InputError
from clipkd.embeddings import prepare

TEXT = "Pack a folder of large images at a student's input size."
EXAMPLES = """\
example:
  clipkd thumbnails imagenet --dataset-source /data/imagenet --side 32
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    child.add_argument("dataset", help="a dataset of images of several sizes, for example imagenet")
    child.add_argument("--side", type=positive, required=True, help="the students' input side, in pixels")


def run(options: argparse.Namespace) -> None:
    spec, layout = dataset_of(options, options.dataset), layout_of(options)
    if not spec.has_thumbnails:
        raise InputError(f"students train on the images of {spec.title} as they are packed: no thumbnails are needed")
    prepare.thumbnails(spec, options.side, layout, options.dataset_source)
    print(layout.thumbnails(spec, options.side)[0])
