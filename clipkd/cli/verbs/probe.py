"""`clipkd probe`."""

from __future__ import annotations

import argparse

from clipkd.cli.options import (
    cell_of,
    data_options,
    device_of,
    device_options,
    expect_embeddings,
    labels_options,
    layout_of,
    store_options,
)
from clipkd.embeddings import prepare

TEXT = "Fit a linear probe on stored embeddings: the teacher's class scores."
EXAMPLES = """\
examples:
  clipkd probe --dataset-name digits --teacher-model digits-vit-s --student tiny-32
  clipkd probe --dataset-name digits --teacher-model digits-vit-s --student tiny-32 --labels 100 --seed 3
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    store_options(child)
    device_options(child)
    labels_options(child)


def run(options: argparse.Namespace) -> None:
    layout, cell = layout_of(options), cell_of(options, "vanilla")
    device = device_of(options)
    for one in cell.by_teacher:
        store = layout.full_embeddings(one)
        if not prepare.is_current(layout.head(one)[0], one.dataset_spec, layout):
            expect_embeddings(store, options, "full")
        prepare.head(store, layout, options.dataset_source, device, one.few_labels)
        print(layout.head(one)[0])
