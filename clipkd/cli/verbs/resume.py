"""`clipkd resume`."""

from __future__ import annotations

import argparse
from pathlib import Path

TEXT = "Go on with the workflow of this folder after its main process was killed, with the command it was started with."
EXAMPLES = """\
examples:
  clipkd resume
  clipkd resume --wait
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument(
        "--wait",
        action="store_true",
        help="let trainings that still run finish first, instead of having them saved and stopped",
    )


def run(options: argparse.Namespace) -> None:
    from clipkd.workflow import resume as resumption

    resumption.go_on(*resumption.prepare(Path(), options.wait))
