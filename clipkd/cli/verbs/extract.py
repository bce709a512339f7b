"""`clipkd extract`."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace

from clipkd.cli.options import (
    cell_of,
    data_options,
    device_of,
    device_options,
    layout_of,
    setting_option,
    store_options,
)
from clipkd.core.errors import InputError
from clipkd.core.progress import say
from clipkd.embeddings import prepare
from clipkd.plugins import recipes
from clipkd.spec.refusals import checked
from clipkd.spec.settings import EmbeddingSettings

TEXT = "Run a teacher over a dataset, once, into the embedding store."
EXAMPLES = """\
examples:
  clipkd extract --dataset-name digits --teacher-model digits-vit-s --student tiny-32 --views full
  clipkd extract --dataset-name cifar100 --teacher-model vit-b16-in21k --views full --shard 2/8   # every eighth part
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    store_options(child)
    device_options(child)
    child.add_argument(
        "--views",
        choices=["full", "sample", "replayed"],
        required=True,
        help="full: every image (teacher-KD, vanilla, probes); sample: the few per class that prototypes need; "
        "replayed: --views-per-image random views of each training image",
    )
    child.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="extract only every N-th part of the store, starting with the I-th; without it, extract what is missing "
        "and join all parts",
    )
    setting_option(child, EmbeddingSettings, "batch_size")


def shard(text: str) -> tuple[int, int]:
    """Parse I/N: two whole numbers, 1 <= I <= N."""
    parts = re.fullmatch(r"([1-9][0-9]{0,4})/([1-9][0-9]{0,4})", text)
    if parts is None or int(parts[1]) > int(parts[2]):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N, for example 2/8")
    return int(parts[1]), int(parts[2])


def run(options: argparse.Namespace) -> None:
    layout = layout_of(options)
    cell = cell_of(options, "embed-KD" if options.views == "sample" else "teacher-KD")
    if options.views == "replayed":
        if recipes.get(cell.recipe).augment == "auto":
            raise InputError(
                f"recipe '{cell.recipe}' chooses its augmentation by the epochs of a run too: name the one whose views "
                f"are to be stored, as --recipe '{recipes.fixed(cell.recipe, 'crop')}'"
            )
        checked(replace(cell, teacher_source="replayed"), options.data)
    for line in prepare.stale_sources([cell], layout):
        say(f"warning: {line}")
    device, batch_size = device_of(options), options.embed_batch_size
    for one in cell.by_teacher:
        store = getattr(layout, f"{options.views}_embeddings")(one)
        prepare.embeddings(store, layout, options.dataset_source, device, batch_size, options.shard)
        if options.shard[1] == 1:
            print(store.folder)
