"""`clipkd prototypes`."""

from __future__ import annotations

import argparse

from clipkd.options import cell_of, data_options, layout_of, store_options

TEXT = "Average a stored sample into one prototype per class."


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    store_options(child)


def run(options: argparse.Namespace) -> None:
    cell = cell_of(options, "embed-KD")
    store, form = layout_of(options).sample_embeddings(cell), cell.recipe_spec.prototype_form
    from clipkd import stages

    stages.prototypes(store, form)
    print(store.prototypes(form)[0])
