"""`clipkd probe`."""

from __future__ import annotations

import argparse

from clipkd.options import cell_of, data_options, device_of, device_options, layout_of, store_options

TEXT = "Fit the linear probe on stored embeddings and write class scores."
EXAMPLES = """\
example:
  clipkd probe --dataset-name digits --teacher-model digits-vit-s --student tiny-32
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    store_options(child)
    device_options(child)


def run(options: argparse.Namespace) -> None:
    layout = layout_of(options)
    store = layout.full_embeddings(cell_of(options, "vanilla"))
    from clipkd import stages

    stages.head(store, layout, options.dataset_source, device_of(options))
    print(store.head()[0])
