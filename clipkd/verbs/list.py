"""`clipkd list`."""

from __future__ import annotations

import argparse

from clipkd import datasets, methods, prototype_forms, recipes, students, teachers

TEXT = "List the names that can be used."
EXAMPLES = """\
example:
  clipkd list
"""

KINDS = {
    "datasets": datasets.names,
    "teachers": teachers.names,
    "students": students.names,
    "train-types": methods.names,
    "recipes": recipes.names,
    "prototype-forms": prototype_forms.names,
}


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("kind", nargs="?", choices=list(KINDS), help="one axis only")


def run(options: argparse.Namespace) -> None:
    for kind in [options.kind] if options.kind else KINDS:
        print(f"{kind}: {', '.join(KINDS[kind]())}")
