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
    teacher_of,
)
from clipkd.core.errors import DataError, InputError
from clipkd.data.dataset import Dataset, open_dataset
from clipkd.plugins import teachers
from clipkd.plugins.teachers import TeacherSpec

if TYPE_CHECKING:
    from clipkd.embeddings.audit import Verdict

TEXT = "Rerun the teacher on a sample of images, or class names, and compare with the stored embeddings."
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
        help="images of each stored array to compare; of a text tower, classes whose prompts are compared",
    )
    child.add_argument("--seed", type=seed, default=0, help="random seed of the sample")


def run(options: argparse.Namespace) -> None:
    layout, spec = layout_of(options), dataset_of(options, options.dataset)
    teacher_spec = teachers.get(teacher_of(options, options.teacher, spec.name))
    if len(teacher_spec.members) > 1:
        raise InputError(f"teacher '{options.teacher}': an audit takes one teacher; name one of them")
    if teacher_spec.is_imported:
        raise InputError(
            f"teacher '{options.teacher}' can't be run again: there is no model to audit, only the embeddings that "
            "somebody else computed (the sha256 of their files is in the store's identity, so changed files are "
            "another store)"
        )
    folder = layout.data / "embeddings" / spec.name / teacher_spec.name
    if not folder.is_dir():
        raise InputError(f"no embeddings of {spec.title} by teacher '{teacher_spec.name}': {folder} does not exist")
    dataset = open_dataset(spec, layout.dataset(spec), with_images=not teacher_spec.reads_names)
    verdicts = of_names if teacher_spec.reads_names else of_images
    answers = [show(one) for one in verdicts(options, folder, dataset, teacher_spec, layout.teacher(teacher_spec))]
    if not answers:
        raise InputError(f"no store in {folder} matches the current dataset and teacher")
    wrong = answers.count(False)
    if wrong:
        raise DataError(f"{wrong} of {len(answers)} stores differ from the teacher; delete them to regenerate")


def of_images(
    options: argparse.Namespace, folder: Path, dataset: Dataset, spec: TeacherSpec, checkpoint: Path
) -> Iterator[Verdict]:
    """Yield the verdict on each store of image embeddings."""
    from clipkd.embeddings import audit
    from clipkd.embeddings import teacher as teachers

    teacher = teachers.load(spec, checkpoint, device_of(options))
    for path, views, identity in audit.stores(folder, dataset, teacher):
        yield audit.audit(path, views, identity, dataset, teacher, options.images, options.seed)


def of_names(
    options: argparse.Namespace, folder: Path, dataset: Dataset, spec: TeacherSpec, checkpoint: Path
) -> Iterator[Verdict]:
    """Yield the verdict on each store of a text tower's embeddings of class names."""
    from clipkd.embeddings import text, text_audit

    tower = text.load_text(spec, checkpoint, device_of(options))
    for path, identity in text_audit.text_stores(folder, dataset, spec):
        yield text_audit.audit_names(path, identity, dataset, tower, options.images, options.seed)


def show(verdict: Verdict) -> bool:
    """Print a verdict; return whether the store is right."""
    print(
        f"{verdict.folder}: {verdict.views}, {verdict.images} {verdict.shown}, worst cosine "
        f"{verdict.cosine:.6f}, worst error {verdict.error:.5f} of a deviation and {verdict.relative:.5f} of the "
        "image's own length: "
        f"{'right' if verdict.is_right else 'WRONG'}"
    )
    if not verdict.is_right:
        named = ", ".join(verdict.wrong[:10])
        print(f"  {len(verdict.wrong)} differ: {named}{', ...' if len(verdict.wrong) > 10 else ''}")
    return verdict.is_right
