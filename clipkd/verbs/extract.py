"""`clipkd extract`."""

from __future__ import annotations

import argparse

from clipkd.options import cell_of, data_options, device_of, device_options, layout_of, positive, store_options

TEXT = "Run a teacher over a dataset, once, into the embedding store."


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    store_options(child)
    device_options(child)
    child.add_argument(
        "--views",
        choices=["full", "sample"],
        required=True,
        help="every image (teacher-KD, vanilla, probes), or the few per class that prototypes need",
    )
    child.add_argument("--embed-batch-size", type=positive, default=64, help="images per teacher pass")


def run(options: argparse.Namespace) -> None:
    layout = layout_of(options)
    cell = cell_of(options, "teacher-KD" if options.views == "full" else "embed-KD")
    store = layout.full_embeddings(cell) if options.views == "full" else layout.sample_embeddings(cell)
    from clipkd import stages

    stages.embeddings(store, layout, options.dataset_source, device_of(options), options.embed_batch_size)
    print(store.folder)
