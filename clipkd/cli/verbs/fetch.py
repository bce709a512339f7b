"""`clipkd fetch`."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace

from clipkd.cli.options import (
    data_options,
    dataset_of,
    device_of,
    device_options,
    layout_of,
    names_option,
    teacher_of,
)
from clipkd.core.errors import InputError
from clipkd.embeddings import prepare
from clipkd.plugins import students, teachers
from clipkd.plugins.datasets import DatasetSpec

TEXT = (
    "Download a teacher's checkpoint, or a student's pretrained weights, at its pinned commit; or train a teacher that "
    "the workflow trains itself."
)
EXAMPLES = """\
examples:
  clipkd fetch digits-vit-s        # trained here
  clipkd fetch vit-b16-in21k       # from the hub, at its commit
"""


HUB_STUDENT = re.compile(r"timm:[^?]+\?pretrained=[^/]+/[^/]+@[0-9a-f]+$", re.IGNORECASE)
"""A timm model with weights of the hub is a student; as a teacher it is named without `timm:`."""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    device_options(child)
    child.add_argument(
        "teacher",
        help="a teacher's name, hub id, OWNER/MODEL@COMMIT or timm:MODEL?pretrained=FILE; or a student, "
        "timm:MODEL?pretrained=OWNER/MODEL@COMMIT. With ?head=own@DATASET after it, a teacher whose own classifier "
        "lacks classes of the dataset is refused before its weights are downloaded",
    )
    names_option(child)


def run(options: argparse.Namespace) -> None:
    if HUB_STUDENT.match(options.teacher):
        fetch_student(options.teacher)
        return
    spec = teachers.get(options.teacher)
    if isinstance(spec, teachers.TrainedCNN) and spec.dataset:
        spec = teachers.get(teacher_of(options, options.teacher, spec.dataset))
    if spec.available:
        raise InputError(spec.available)
    layout, device = layout_of(options), device_of(options)
    for one in spec.members:
        scored = scored_by(one, options)
        if scored and options.class_names:
            layout = replace(layout, class_names=((scored.name, options.class_names),))
        prepare.teacher(one, layout, device, options.dataset_source, scored)


def scored_by(spec: teachers.TeacherSpec, options: argparse.Namespace) -> DatasetSpec | None:
    """Return the dataset that a teacher's own classifier is to score, where the name says which."""
    _, _, dataset = spec.head.partition("@")
    return dataset_of(options, dataset) if dataset else None


def fetch_student(name: str) -> None:
    """Download the pretrained weights of a timm student into the Hugging Face cache."""
    spec = students.get(name)
    if not isinstance(spec, students.TimmSpec) or not spec.pretrained or spec.weights:
        raise InputError(f"student '{name}' has no weights on the hub: write timm:MODEL?pretrained=OWNER/MODEL@COMMIT")
    from clipkd.plugins.students import _pretrained

    _pretrained.fetch(spec)
