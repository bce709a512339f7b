"""`clipkd download`."""

from __future__ import annotations

import argparse

from clipkd.cli.options import data_options, dataset_of, layout_of
from clipkd.embeddings import prepare

TEXT = "Download a dataset and pack it into uint8 arrays."
EXAMPLES = """\
examples:
  clipkd download digits
  clipkd download cifar100 --dataset-source /data/cifar-100-binary.tar.gz
  clipkd download birds --dataset-source photos/birds   # a folder with train/ and val/
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    child.add_argument("dataset", help="a dataset's name, for example cifar10")


def run(options: argparse.Namespace) -> None:
    spec = dataset_of(options, options.dataset)
    prepare.dataset(spec, layout_of(options), options.dataset_source)
