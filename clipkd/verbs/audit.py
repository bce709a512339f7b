"""`clipkd audit`."""

from __future__ import annotations

import argparse

from clipkd import datasets, teachers
from clipkd.errors import DataError, InputError
from clipkd.options import data_options, device_of, device_options, layout_of, positive, seed

TEXT = "Run the teacher again over a sample of images and compare with what is stored."
EXAMPLES = """\
example:
  clipkd audit digits digits-vit-s
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    device_options(child)
    child.add_argument("dataset", help="a dataset's name, for example cifar10")
    child.add_argument("teacher", help="a teacher's name, hub id, OWNER/MODEL@COMMIT or folder")
    child.add_argument("--images", type=positive, default=64, help="images of each stored array to look at again")
    child.add_argument("--seed", type=seed, default=0, help="decides which images")


def run(options: argparse.Namespace) -> None:
    layout, teacher_spec = layout_of(options), teachers.get(options.teacher)
    if len(teacher_spec.members) > 1 or teacher_spec.reads_names:
        raise InputError(f"teacher '{options.teacher}': an audit is of one teacher, and of what it says of images")
    spec = datasets.get(options.dataset, options.dataset_source)
    folder = layout.data / "embeddings" / spec.name / teacher_spec.name
    if not folder.is_dir():
        raise InputError(
            f"nothing is stored of {spec.title} and teacher '{teacher_spec.name}': {folder} does not exist"
        )
    from clipkd.data.dataset import open_dataset
    from clipkd.embeddings.audit import audit, stores
    from clipkd.embeddings.teacher import load

    dataset = open_dataset(spec, layout.dataset(spec))
    teacher = load(teacher_spec, layout.teacher(teacher_spec), device_of(options))
    found = list(stores(folder, dataset, teacher))
    if not found:
        raise InputError(f"no store below {folder} was made from this dataset and teacher as they are now")
    wrong = 0
    for path, views, identity in found:
        verdict = audit(path, views, identity, dataset, teacher, options.images, options.seed)
        answer = "right" if verdict.is_right else "WRONG"
        print(
            f"{verdict.folder}: {verdict.views}, {verdict.images} views looked at again, worst cosine "
            f"{verdict.cosine:.6f}, worst error {verdict.error:.5f} of a deviation: {answer}"
        )
        if not verdict.is_right:
            wrong += 1
            named = ", ".join(verdict.wrong[:10])
            print(f"  {len(verdict.wrong)} differ: {named}{', ...' if len(verdict.wrong) > 10 else ''}")
    if wrong:
        raise DataError(f"{wrong} of {len(found)} stores are not what the teacher says; remove them to make them again")
