"""`clipkd export-embeddings`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.core.progress import say
from clipkd.export.files import EMBEDDINGS_FORMATS

TEXT = "Export a teacher's stored embeddings as Parquet, NumPy arrays, or a dataset for the Hugging Face hub."
EXAMPLES = """\
examples:
  clipkd export-embeddings digits digits-vit-s vectors --recipe corrected --format parquet
  clipkd export-embeddings digits digits-vit-s vectors-hf --recipe corrected --format hf --license cc-by-4.0
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("dataset", metavar="DATASET", help="the dataset's name")
    child.add_argument(
        "teacher", metavar="TEACHER", help="the teacher's name, as in the config or below data/embeddings/DATASET/"
    )
    child.add_argument(
        "folder", metavar="OUT", type=Path, help="output folder: new, empty, or an earlier export in this format"
    )
    child.add_argument(
        "--format",
        required=True,
        choices=list(EMBEDDINGS_FORMATS),
        help="; ".join(f"{name}: {title}" for name, title in EMBEDDINGS_FORMATS.items()),
    )
    child.add_argument("--recipe", help="whose normalisation of the teacher's input, where both are stored")
    child.add_argument("--store", metavar="FINGERPRINT", help="which of several that differ in more than the recipe")
    child.add_argument("--license", default="other", help="license id for the card, such as cc-by-4.0")
    child.add_argument("--data", type=Path, default=Path("data"), help="folder of datasets and embeddings")


def run(options: argparse.Namespace) -> None:
    from clipkd.embeddings.stored import load_embeddings
    from clipkd.export.embeddings import export_embeddings

    stored = load_embeddings(options.dataset, options.teacher, options.recipe, options.data, options.store)
    print(export_embeddings(stored, options.format, options.folder, options.license))
    if stored.labels is None:
        say(f"without labels, classes and files: {options.data / 'datasets' / options.dataset.lower()} is not there")
