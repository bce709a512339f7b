"""`clipkd thumbnails`."""

from __future__ import annotations

import argparse

from clipkd import datasets, students
from clipkd.errors import InputError
from clipkd.options import data_options, layout_of

TEXT = "Pack a folder of large images at a student's input size."


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    child.add_argument("dataset", help="a dataset of images of several sizes, for example imagenet")
    child.add_argument("--student", default="base-32", help="the student network, for its input size")


def run(options: argparse.Namespace) -> None:
    spec, layout = datasets.get(options.dataset, options.dataset_source), layout_of(options)
    side = students.get(options.student).image_size
    if not spec.has_thumbnails:
        raise InputError(f"students train on the images of {spec.title} as they are packed: no thumbnails are needed")
    from clipkd import stages

    stages.thumbnails(spec, side, layout, options.dataset_source)
    print(layout.thumbnails(spec, side)[0])
