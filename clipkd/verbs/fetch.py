"""`clipkd fetch`."""

from __future__ import annotations

import argparse

from clipkd import teachers
from clipkd.errors import InputError
from clipkd.options import data_options, device_of, device_options, layout_of

TEXT = "Fetch a teacher's checkpoint at its pinned commit (needs internet); train it if the workflow makes it."
EXAMPLES = """\
examples:
  clipkd fetch digits-vit-s        # trained here
  clipkd fetch vit-b16-in21k       # from the hub, at its commit
"""


def add_options(child: argparse.ArgumentParser) -> None:
    data_options(child)
    device_options(child)
    child.add_argument("teacher", help="a teacher's name, hub id or OWNER/MODEL@COMMIT")


def run(options: argparse.Namespace) -> None:
    spec = teachers.get(options.teacher)
    if spec.available:
        raise InputError(spec.available)
    from clipkd import stages

    layout, device = layout_of(options), device_of(options)
    for one in spec.members:
        stages.teacher(one, layout, device)
