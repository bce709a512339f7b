"""Names of teachers, taken apart: `[NAME=]WHERE[:OUTPUT][?head=own]`, and several of them joined by `+`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from os.path import expanduser
from pathlib import Path

from clipkd.core.errors import InputError
from clipkd.plugins.teachers._spec import OUTPUTS, OWN

IMPORTED = "embeddings:"
"""How WHERE begins that is a folder or file of embeddings, not a model."""
COMBINED = ("weights", "standardise")
"""Options of several teachers, after `A+B?`."""
LIBRARY = re.compile(r"(timm|torchvision):")
"""How WHERE begins that is a model of a library, with a file of weights."""
TRAINED = "trained:"
"""How WHERE begins that is a model which the workflow trains."""
ALIAS = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""A NAME that users may give a teacher."""
NO_TEACHER = "none"
"""What a run without a teacher has in a teacher's place; no teacher may have this name."""
RUN = re.compile(
    r"run:([a-z0-9][a-z0-9._-]*/[a-z0-9-]+/[a-z0-9-]+/[a-z0-9+.-]+/[A-Za-z0-9-]+/seed(?:\d+|\*))"
    r"(?:@([0-9a-f]{16}|\d+-[0-9a-f]{16}(?:\.\d+-[0-9a-f]{16})*))?"
)
"""A run of the grid by its folder, and the fingerprint of its settings; of `seed*`, each student's own, one a seed."""
BY_SEED = re.compile(r"/seed\*@([0-9a-f.-]+)")
"""The end of a run of each seed: SEED-FINGERPRINT.SEED-FINGERPRINT."""
HEADS = re.compile(rf"{OWN}(@[a-z0-9][a-z0-9-]*)?")
"""What `head=` may say: `own`, or `own@DATASET`."""
HEAD = re.compile(r"[?&]head=([^?&+]*)$")
"""The end of a name that says where class scores come from."""


def parsed(name: str) -> tuple[str, str, str]:
    """Return NAME, WHERE and OUTPUT of `[NAME=]WHERE[:OUTPUT][?head=own]`, "" where one is left out."""
    name = HEAD.sub("", name)
    if is_folder(name):
        return "", name, ""
    is_whole = name.startswith((IMPORTED, TRAINED)) or LIBRARY.match(name)  # what is before its first = is no NAME
    alias, rest = ("", name) if is_whole or "=" not in name else name.split("=", 1)
    if rest.startswith((IMPORTED, TRAINED)):
        return alias, rest, ""
    if LIBRARY.match(rest):
        return alias, *parsed_library(rest)
    if rest.startswith("run:"):
        run, _, output = rest.removeprefix("run:").partition(":")
        return alias, f"run:{run}", output
    where, _, output = rest.rpartition(":")
    return (alias, rest, "") if not where or is_folder(rest) else (alias, where, output)


def head_in(name: str) -> str:
    """Return what a teacher's name says of its head: `own`, `own@DATASET`, or "" where it says nothing.

    Raises:
        InputError: it says something else.
    """
    said = HEAD.search(name)
    if said and not HEADS.fullmatch(said[1]):
        raise InputError(
            f"teacher '{name}': head '{said[1]}' is not `own` or `own@DATASET`; leave head out for a linear probe"
        )
    return said[1] if said else ""


def options_of(name: str) -> tuple[str, dict[str, str]]:
    """Return the teachers of `A+B?weights=2,1&standardise=true`, and the options of their combination.

    Raises:
        InputError: an option is unknown, or stands twice; nothing is behind the `?`.
    """
    members, mark, rest = name.rpartition("?")
    pairs = [pair.partition("=")[::2] for pair in rest.split("&")]
    keys = [key for key, _ in pairs]
    if mark and not rest and not is_folder(name):
        raise InputError(f"teacher '{name}': there is nothing behind the '?'; leave it out")
    if not mark or not any(difflib.get_close_matches(key, COMBINED, cutoff=0.7) for key in keys) or is_folder(name):
        return name, {}
    for key in keys:
        if key not in COMBINED or keys.count(key) > 1:
            what = "stands twice" if key in COMBINED else f"is not one of {', '.join(COMBINED)}"
            raise InputError(f"teacher '{name}': option '{key}' {what}")
    return members, dict(pairs)


def parsed_library(name: str) -> tuple[str, str]:
    """Return WHERE and OUTPUT of `LIBRARY:MODEL?pretrained=FILE[:OUTPUT]`; the file may have a `:` in its name."""
    where, _, output = name.rpartition(":")
    has_output = LIBRARY.match(where) and output.isalpha() and not Path(expanduser(file_of(name))).exists()
    return (where, output) if has_output else (name, "")


def file_of(where: str) -> str:
    """Return FILE of `LIBRARY:MODEL?pretrained=FILE`; "" where there is none."""
    return where.partition("?")[2].partition("=")[2]


def split(name: str) -> list[str]:
    """Return the names of several teachers, `A+B`, one by one; a folder may have a `+` in its name."""
    parts, members = options_of(name)[0].split("+"), []
    while parts:
        lengths = range(len(parts), 1, -1)
        length = next((n for n in lengths if names_folder("+".join(parts[:n]))), 1)
        members.append("+".join(parts[:length]))
        parts = parts[length:]
    return members


def names_folder(name: str) -> bool:
    """Return whether `name` names one folder, one file of embeddings or of weights, or one run."""
    _, where, output = parsed(name)
    if where.startswith(IMPORTED):
        return os.path.exists(expanduser(where.removeprefix(IMPORTED)))
    is_file = bool(LIBRARY.match(where)) and Path(expanduser(file_of(where))).is_file()
    return output in ("", *OUTPUTS) and (is_folder(where) or is_file or bool(RUN.fullmatch(where)))


def is_folder(name: str) -> bool:
    """Return whether a name is that of a folder; one that no path can have is none."""
    try:
        return Path(expanduser(name)).is_dir()
    except (OSError, ValueError):
        return False


def resolved(name: str, own: dict[str, str]) -> str:
    """Return `name` with each part that the config's `teachers` map names replaced by what the map says."""
    members = "+".join(f"{member}={own[member]}" if member in own else member for member in split(name))
    return members + name.removeprefix(options_of(name)[0])


def by_seed(run: str, settings: dict[int, str]) -> str:
    """Return `run:.../seed*` with the fingerprint of each seed's settings."""
    return f"run:{run}@{'.'.join(f'{seed}-{found}' for seed, found in sorted(settings.items()))}"


def of_seed(name: str, seed: int) -> str:
    """Return a teacher's name with the run of one seed in place of each `seed*`.

    Raises:
        InputError: no run of this seed is known.
    """

    def one(match: re.Match[str]) -> str:
        known = dict(part.split("-") for part in match[1].split("."))
        if str(seed) not in known:
            raise InputError(f"teacher '{name.partition('@')[0]}': nothing is said of its run of seed {seed}")
        return f"/seed{seed}@{known[str(seed)]}"

    return BY_SEED.sub(one, name)


def of_seeds(name: str, seeds: Iterable[int]) -> str:
    """Return a teacher's name without what it says of the runs of other seeds."""
    kept = {str(seed) for seed in seeds}

    def some(match: re.Match[str]) -> str:
        return "/seed*@" + ".".join(part for part in match[1].split(".") if part.partition("-")[0] in kept)

    return BY_SEED.sub(some, name)


def checkpoint_of(name: str) -> str:
    """Return the shortest name of one teacher's checkpoint: the same for all that is taken of its images."""
    _, where, output = parsed(name)
    return f"{where}:text" if output == "text" else where
