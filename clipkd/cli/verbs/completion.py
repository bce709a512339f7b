"""`clipkd completion`."""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

from clipkd import cli

TEXT = "Print a completion script for your shell: verbs, flags, choices and files."
EXAMPLES = """\
examples:
  eval "$(clipkd completion bash)"                                       # this shell; in ~/.bashrc, every one
  clipkd completion zsh > "${fpath[1]}/_clipkd"                          # zsh
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def run(options: argparse.Namespace) -> None:
    parser = cli.parser()
    complete_paths(parser)
    print(shtab.complete(parser, options.shell))


def complete_paths(parser: argparse.ArgumentParser) -> None:
    """Mark the arguments that take a file or folder."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                complete_paths(child)
        elif action.type is Path or action.dest == "images":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
