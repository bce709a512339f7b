"""`clipkd resume`."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipkd.workflow import resume

TEXT = "Resume the workflow of this folder after its main process was killed, with the same command."
EXAMPLES = """\
examples:
  clipkd resume
  clipkd resume --wait
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument(
        "--wait",
        action="store_true",
        help="let running trainings finish first; without it, they are saved and stopped",
    )


def run(options: argparse.Namespace) -> None:
    resume.go_on(*resume.prepare(Path(), options.wait))
