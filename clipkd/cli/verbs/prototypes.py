"""`clipkd prototypes`."""

from __future__ import annotations

import argparse

from clipkd.cli.options import (
    cell_of,
    data_options,
    expect_embeddings,
    form_options,
    labels_options,
    layout_of,
    store_options,
)
from clipkd.embeddings import prepare

TEXT = "Make class prototypes from stored embeddings."
EXAMPLES = """\
examples:
  clipkd prototypes --dataset-name digits --teacher-model digits-vit-s --student tiny-32
  clipkd prototypes --dataset-name cifar100 --teacher-model vit-b16-in21k --per-class all --prototype-form kmeans-4
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    store_options(child)
    form_options(child)
    labels_options(child)


def run(options: argparse.Namespace) -> None:
    cell, layout = cell_of(options, "embed-KD"), layout_of(options)
    for one in cell.by_teacher:
        if not prepare.is_current(layout.prototypes(one)[0], one.dataset_spec, layout):
            expect_embeddings(
                layout.sample_embeddings(one), options, "full" if layout.labelled_sample(one) else "sample"
            )
        prepare.prototypes(one, layout)
        print(layout.prototypes(one)[0])
