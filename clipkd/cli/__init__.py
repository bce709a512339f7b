"""The command line: one verb a file. `clipkd train` takes the flags of the paper's released code."""

from __future__ import annotations

import argparse
import errno
import importlib
import itertools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from clipkd.core import verified
from clipkd.core.disk import explained
from clipkd.core.environment import check_environment, masked
from clipkd.core.errors import (
    ClipkdError,
    Interrupted,
    MachineError,
    first_line,
    lacks_memory,
    lost_device,
    nearest,
)
from clipkd.core.progress import say
from clipkd.core.version import __version__

GROUPS = {
    "images and teachers": ("download", "thumbnails", "fetch", "pin"),
    "embeddings": ("extract", "prototypes", "probe", "audit", "export-embeddings"),
    "students": ("train", "evaluate", "predict", "benchmark", "demo", "compare", "export", "push"),
    "the workflow": ("init", "check", "tables", "figures", "report", "resume", "clean"),
    "this machine": ("doctor", "list", "verify", "completion"),
}
"""Verbs by what they are for, in the order in which `clipkd --help` shows them."""
VERBS = tuple(itertools.chain.from_iterable(GROUPS.values()))
"""Each is a module of clipkd.cli.verbs, with _ in place of -."""


THEN = "then"
"""Between two commands of one process: imports are paid once."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, or several; return the exit code (2 bad input, 3 bad data, 4 the machine lacks something)."""
    asked = [*map(parsed, commands(sys.argv[1:] if arguments is None else arguments))]
    # PIL warns of images that our own limit refuses by name, or that the user allowed (clipkd.core.images).
    warnings.filterwarnings("ignore", message=r"Image size .* could be decompression bomb")
    os.umask(os.umask(0o077) | 0o002)  # whatever the user's umask: nobody else may change what we write
    for options in asked:
        if code := run(options):
            return code
    return 0


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of one command; a wrong one ends the process."""
    first = "".join(words[:1])
    if first and not first.startswith("-") and first not in VERBS:
        VerbParser(prog="clipkd").error(f"unknown verb '{first}'{nearest(first, VERBS)} (valid: {', '.join(VERBS)})")
    top = parser(words[:1])
    if first in VERBS:
        refuse_misspelt_flags(top, words)
    options, unknown = top.parse_known_args(words)
    if unknown:
        VerbParser(prog=f"clipkd {options.verb}").error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def refuse_misspelt_flags(top: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """End the process where a verb has no such flag: argparse would first ask for flags that are missing."""
    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    known = [flag for action in verbs.choices[words[0]]._actions for flag in action.option_strings]
    for word in itertools.takewhile(lambda word: word != "--", words):
        flag = word.partition("=")[0]
        if word.startswith("--") and not any(one.startswith(flag) for one in known):
            VerbParser(prog=f"clipkd {words[0]}").error(f"unrecognized arguments: {word}{nearest(flag, known)}")


def commands(words: Sequence[str]) -> list[list[str]]:
    """Return the words of each command: `then` and a verb begin the next one."""
    found: list[list[str]] = [[]]
    for word, following in itertools.pairwise([*words, ""]):
        if word == THEN and following in VERBS:
            found.append([])
        else:
            found[-1].append(word)
    return found


def run(options: argparse.Namespace) -> int:
    """Run one command; return its exit code."""
    if getattr(options, "verify", False):
        os.environ[verified.ALWAYS] = "always"
    try:
        check_environment()
        with heeding_sigterm():
            options.run(options)
        sys.stdout.flush()
    except ClipkdError as error:
        say(masked(f"clipkd {options.verb}: error: {error}"))
        return error.exit_code
    except KeyboardInterrupt:
        say(f"clipkd {options.verb}: stopped")
        return 130
    except (MemoryError, RuntimeError) as error:
        say(f"clipkd {options.verb}: error: {of_machine(error)}")
        return MachineError.exit_code
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO) and not error.filename:  # nobody reads any more, or no terminal
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        say(masked(f"clipkd {options.verb}: error: {explained(error)}"))
        return MachineError.exit_code
    return 0


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Have SIGTERM end the work as Ctrl-C does, with a message: a job's log then tells it from one that was killed.

    Where others heed it, such as torchrun, and where a training does, it stays theirs.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.SIGTERM, "stopped by SIGTERM")

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def of_machine(error: MemoryError | RuntimeError) -> str:
    """Return what to tell the user where memory ran out or a GPU failed; raise any other error."""
    if isinstance(error, RuntimeError) and (first := lost_device(error)):
        return f"the GPU failed ({first}): try again, or take another one"
    if not lacks_memory(error):
        raise error
    return f"out of memory ({first_line(error)}): take a smaller batch or image size, or a machine with more memory"


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows each option's default, and examples as they are written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """Return an option's help, with its default, if it has one, as a user types it."""
        default = action.default
        if default is None or default is False or default == []:
            return action.help
        text = super()._get_help_string(action)
        return text.replace("%(default)s", typed(default).replace("%", "%%")) if text else text


class Overview(argparse.HelpFormatter):
    """Shows verbs in their groups."""

    def _format_action(self, action: argparse.Action) -> str:
        text = super()._format_action(action)
        headings = [group for group, verbs in GROUPS.items() if action.metavar == verbs[0]]
        return "".join([*(f"\n  {heading}:\n" for heading in headings), text])


class VerbParser(argparse.ArgumentParser):
    """Says what is wrong and where the help is: a verb's usage is longer than a screen."""

    def error(self, message: str) -> NoReturn:
        of_all = "what each does" if self.prog == "clipkd" else "every option"
        self.exit(2, f"{self.prog}: error: {message}\nrun `{self.prog} --help` for {of_all}\n")


def typed(default: Any) -> str:
    """Return an option's default as a user types it: several values side by side, a pair as I/N."""
    if isinstance(default, list | tuple):
        return ("/" if isinstance(default, tuple) else " ").join(map(str, default))
    return str(default)


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the whole command line; only of the verb that `words` begin with, which imports no other."""
    top = argparse.ArgumentParser(
        prog="clipkd",
        description="Knowledge distillation that never runs the teacher twice.",
        formatter_class=Overview,
        epilog="`clipkd VERB ... then VERB ...` runs several commands in one process, up to the first that fails.",
    )
    top.add_argument("--version", action="version", version=f"clipkd {__version__}")
    verbs = top.add_subparsers(title="verbs", dest="verb", required=True, metavar="VERB", parser_class=VerbParser)
    first = "".join(words[:1])
    for name in [first] if first in VERBS else [] if first == "--version" else VERBS:
        verb = importlib.import_module(f"clipkd.cli.verbs.{name.replace('-', '_')}")
        examples = getattr(verb, "EXAMPLES", None)
        child = verbs.add_parser(name, help=verb.TEXT, description=verb.TEXT, epilog=examples, formatter_class=Help)
        verb.add_options(child)
        child.set_defaults(run=verb.run)
    return top
