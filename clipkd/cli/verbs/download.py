"""`clipkd download`."""

from __future__ import annotations

import argparse
import os
import sys

from clipkd.cli.options import data_options, dataset_of, layout_of
from clipkd.core.artifacts import MANIFEST, read_manifest
from clipkd.core.errors import InputError
from clipkd.core.progress import say
from clipkd.data.currency import packed_content
from clipkd.data.source_files import after_change, stale
from clipkd.data.summary import summary
from clipkd.embeddings import prepare

TEXT = "Download a dataset and pack it into uint8 arrays."
EXAMPLES = """\
examples:
  clipkd download digits
  clipkd download cifar100 --dataset-source /data/cifar-100-binary.tar.gz
  clipkd download birds --dataset-source photos/birds   # a folder with train/ and val/
  clipkd download birds --dataset-source photos/birds --overwrite   # images were added, removed or labelled
  clipkd download beans --dataset-source hub:AI-Lab-Makerere/beans@COMMIT --files-only
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    child.add_argument("dataset", help="a dataset's name, for example cifar10")
    child.add_argument(
        "--files-only",
        action="store_true",
        help="of a dataset of the Hugging Face hub: download its files into the Hugging Face cache, and pack nothing; "
        "without it, the same command then needs no internet",
    )
    child.add_argument(
        "--overwrite",
        action="store_true",
        help="read the source again, to take in what has changed there; the packed one is replaced when the new one "
        "is complete, and embeddings of images that are as they were are kept",
    )


def run(options: argparse.Namespace) -> None:
    spec = dataset_of(options, options.dataset)
    layout = layout_of(options)
    if options.files_only:
        if spec.listing(layout.downloads) is None:
            raise InputError(f"--files-only: '{spec.name}' is no dataset of the hub: it is packed as it is downloaded")
        return spec.fetch(layout.downloads)
    manifest = layout.dataset(spec) / MANIFEST
    before = manifest.read_bytes() if manifest.exists() else None
    content = packed_content(spec, manifest.parent)
    now = prepare.dataset(spec, layout, options.dataset_source, overwrite=options.overwrite)
    for line in filter(None, [stale(manifest.parent, spec.folder(options.dataset_source), options.dataset_source)]):
        say(f"warning: {line}")
    if before == manifest.read_bytes() and not options.overwrite:
        say(f"{spec.title} was packed before: its source is not read again. To do so, add --overwrite")
    elif content == now.content:
        say(f"{spec.title} was packed again; its images and labels are as they were")
    elif content is not None:
        say("\n".join([f"{spec.title} was packed again, and is another dataset now:", *after_change(manifest.parent)]))
    if not is_one_stream():  # the packing said so in the log; here it is seen
        print(summary(spec, read_manifest(layout.dataset(spec))["facts"]))


def is_one_stream() -> bool:
    """Return whether standard output and standard error go to the same place."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except OSError:  # no file: a test's
        return False
