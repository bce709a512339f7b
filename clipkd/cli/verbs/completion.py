"""`clipkd completion`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

TEXT = "Print what makes a shell complete clipkd's verbs, flags, choices and files."
EXAMPLES = """\
examples:
  eval "$(clipkd completion bash)"                                       # this shell; in ~/.bashrc, every one
  clipkd completion zsh > "${fpath[1]}/_clipkd"                          # zsh
"""


def add_options(child: argparse.ArgumentParser) -> None:
    child.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def run(options: argparse.Namespace) -> None:
    import shtab

    from clipkd.cli import parser

    whole = parser()
    complete_paths(whole, shtab.FILE)
    print(shtab.complete(whole, options.shell))


def complete_paths(parser: argparse.ArgumentParser, files: Any) -> None:
    """Say which arguments are files or folders."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                complete_paths(child, files)
        elif action.type is Path or action.dest == "images":
            action.complete = files  # type: ignore[attr-defined]
