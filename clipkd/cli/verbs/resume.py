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
  clipkd resume --after-restart
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument(
        "--wait",
        action="store_true",
        help="let running trainings finish first; without it, they are saved and stopped",
    )
    child.add_argument(
        "--after-restart",
        action="store_true",
        help="this machine was restarted, and no other one of its name works here: what it held then is free",
    )


def run(options: argparse.Namespace) -> None:
    resume.go_on(*resume.prepare(Path(), options.wait, options.after_restart))
