"""`clipkd audit`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clipkd.cli.options import (
    data_options,
    dataset_of,
    device_of,
    device_options,
    layout_of,
    positive,
    seed,
)
from clipkd.core.errors import DataError, InputError
from clipkd.plugins import teachers

if TYPE_CHECKING:
    from clipkd.data.dataset import Dataset
    from clipkd.embeddings.audit import Verdict
    from clipkd.plugins.teachers import TeacherSpec

TEXT = "Run the teacher again over a sample of images, or class names, and compare with what is stored."
EXAMPLES = """\
example:
  clipkd audit digits digits-vit-s
  clipkd audit flowers openai/clip-vit-base-patch16@COMMIT:text --dataset-source /data/flowers   # class names
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    device_options(child)
    child.add_argument("dataset", help="a dataset's name, for example cifar10")
    child.add_argument("teacher", help="a teacher's name, hub id, OWNER/MODEL@COMMIT or folder")
    child.add_argument(
        "--images",
        type=positive,
        default=64,
        help="images of each stored array to look at again; of a text tower, classes whose prompts to read again",
    )
    child.add_argument("--seed", type=seed, default=0, help="decides which")


def run(options: argparse.Namespace) -> None:
    layout, teacher_spec = layout_of(options), teachers.get(options.teacher)
    if len(teacher_spec.members) > 1:
        raise InputError(f"teacher '{options.teacher}': an audit is of one teacher; name one of the several")
    spec = dataset_of(options, options.dataset)
    folder = layout.data / "embeddings" / spec.name / teacher_spec.name
    if not folder.is_dir():
        raise InputError(
            f"nothing is stored of {spec.title} and teacher '{teacher_spec.name}': {folder} does not exist"
        )
    from clipkd.data.dataset import open_dataset

    dataset = open_dataset(spec, layout.dataset(spec), with_images=not teacher_spec.reads_names)
    verdicts = of_names if teacher_spec.reads_names else of_images
    answers = [show(one) for one in verdicts(options, folder, dataset, teacher_spec, layout.teacher(teacher_spec))]
    if not answers:
        raise InputError(f"no store below {folder} was made from this dataset and teacher as they are now")
    wrong = answers.count(False)
    if wrong:
        raise DataError(
            f"{wrong} of {len(answers)} stores are not what the teacher says; remove them to make them again"
        )


def of_images(
    options: argparse.Namespace, folder: Path, dataset: Dataset, spec: TeacherSpec, checkpoint: Path
) -> Iterator[Verdict]:
    """Yield the verdict on each store of what a teacher says of images."""
    from clipkd.embeddings.audit import audit, stores
    from clipkd.embeddings.teacher import load

    teacher = load(spec, checkpoint, device_of(options))
    for path, views, identity in stores(folder, dataset, teacher):
        yield audit(path, views, identity, dataset, teacher, options.images, options.seed)


def of_names(
    options: argparse.Namespace, folder: Path, dataset: Dataset, spec: TeacherSpec, checkpoint: Path
) -> Iterator[Verdict]:
    """Yield the verdict on each store of what a text tower says of class names."""
    from clipkd.embeddings.text import load_text
    from clipkd.embeddings.text_audit import audit_names, text_stores

    tower = load_text(spec, checkpoint, device_of(options))
    for path, identity in text_stores(folder, dataset, spec):
        yield audit_names(path, identity, dataset, tower, options.images, options.seed)


def show(verdict: Verdict) -> bool:
    """Print a verdict; return whether the store is right."""
    print(
        f"{verdict.folder}: {verdict.views}, {verdict.images} {verdict.shown}, worst cosine "
        f"{verdict.cosine:.6f}, worst error {verdict.error:.5f} of a deviation: "
        f"{'right' if verdict.is_right else 'WRONG'}"
    )
    if not verdict.is_right:
        named = ", ".join(verdict.wrong[:10])
        print(f"  {len(verdict.wrong)} differ: {named}{', ...' if len(verdict.wrong) > 10 else ''}")
    return verdict.is_right
