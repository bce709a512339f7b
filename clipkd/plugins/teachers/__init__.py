"""Teachers: one file is one teacher. The metadata here imports no torch.

Any teacher can be named without a file: `[NAME=]WHERE[:OUTPUT]`, where OUTPUT is what is taken of it, and `?head=own`
behind it where its own classifier gives the class scores. Each kind of WHERE is one module, which says what it takes:
`_known`, `_hub`, `_folder`, `_library`, `_imported`; a new kind is a module and its line in KINDS. `A+B` are several
teachers at once, with `?weights=2,1&standardise=true` behind them.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

from clipkd.core.errors import InputError, nearest
from clipkd.core.hub import HUB_ID
from clipkd.plugins.teachers._cnn import TrainedCNN, on_dataset, trained_cnn
from clipkd.plugins.teachers._folder import FolderTeacher, files_in, from_folder, in_folder, nested_processor
from clipkd.plugins.teachers._hub import LOCK, HubTeacher, lock, on_hub
from clipkd.plugins.teachers._imported import ImportedTeacher, imported
from clipkd.plugins.teachers._known import known, names
from clipkd.plugins.teachers._library import LibraryTeacher, of_library
from clipkd.plugins.teachers._names import (
    ALIAS,
    HEADS,
    NO_TEACHER,
    RUN,
    by_seed,
    checkpoint_of,
    head_in,
    of_seed,
    of_seeds,
    options_of,
    parsed,
    resolved,
    split,
)
from clipkd.plugins.teachers._spec import (
    FILES,
    NESTED_PROCESSOR,
    OUTPUTS,
    OWN,
    PROCESSOR,
    Output,
    SeveralTeachers,
    TeacherSpec,
    giving,
    is_timm,
    refuse_nameless,
)
from clipkd.plugins.teachers._student import StudentTeacher, student
from clipkd.plugins.teachers._trained import TrainedTeacher

__all__ = [
    "FILES",
    "HEADS",
    "LOCK",
    "NESTED_PROCESSOR",
    "NO_TEACHER",
    "OWN",
    "PROCESSOR",
    "RUN",
    "FolderTeacher",
    "HubTeacher",
    "ImportedTeacher",
    "LibraryTeacher",
    "Output",
    "SeveralTeachers",
    "StudentTeacher",
    "TeacherSpec",
    "TrainedCNN",
    "TrainedTeacher",
    "by_seed",
    "checkpoint_of",
    "files_in",
    "from_folder",
    "get",
    "giving",
    "is_timm",
    "lock",
    "names",
    "nested_processor",
    "of_seed",
    "of_seeds",
    "on_dataset",
    "parsed",
    "refuse_nameless",
    "resolved",
    "spelled",
    "split",
]

WEIGHT = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
"""How one of several teachers' weights is written: it is a part of names."""
PREFIXES = ("embeddings:", "run:", "timm:", "torchvision:", "trained:")
"""How a WHERE begins that is neither a name, nor a folder, nor one of the hub."""
SPEC_CLASS = TeacherSpec
"""Of what other distributions add (clipkd/core/registry.py)."""
KINDS = (imported, student, trained_cnn, of_library, known, on_hub, in_folder)
"""Each takes WHERE and OUTPUT (None: the kind's own choice) and returns the teacher, or None where WHERE is none of
its names. The first that takes a name has it."""


def get(name: str) -> TeacherSpec:
    """Return the teacher that `name` names: `[NAME=]WHERE[:OUTPUT]`, or several of them joined by `+`.

    Raises:
        InputError: a part is unknown, or a hub id comes without a commit.
    """
    members, options = split(name), options_of(name)[1]
    if not all(members):
        raise InputError(f"teacher '{name}': a name is empty; several teachers are written A+B")
    if len(members) == 1:
        if options:
            verb = "are" if len(options) > 1 or "weights" in options else "is"
            raise InputError(f"teacher '{name}': {' and '.join(options)} {verb} for several teachers, A+B")
        return get_one(name)
    several = tuple(get_one(member) for member in members)
    keys = [spec.name for spec in several]
    if len(set(keys)) < len(keys):
        raise InputError(f"teacher '{name}' names one teacher twice")
    return combined(name, several, options)


def combined(name: str, several: tuple[TeacherSpec, ...], options: dict[str, str]) -> SeveralTeachers:
    """Return several teachers as one, with the options of their combination.

    Raises:
        InputError: the weights are not one positive number for each, or `standardise` is not `true`.
    """
    given = options.get("weights", "").split(",") if "weights" in options else []
    weights = ratio([Fraction(text) for text in given if WEIGHT.fullmatch(text) and Fraction(text) > 0])
    if len(weights) != len(given) or len(given) not in {0, len(several)}:
        raise InputError(
            f"teacher '{name}': weights '{options['weights']}' are not {len(several)} positive numbers, as in "
            f"?weights={','.join(map(str, range(len(several), 0, -1)))} (at most six digits on each side of the point)"
        )
    if options.get("standardise", "true") != "true":
        raise InputError(f"teacher '{name}': standardise is `true` or left out, not '{options['standardise']}'")
    if len(set(weights)) == 1:
        weights = []  # the same for each, as without them
    standardise = "standardise" in options
    shown = [str(weight) for weight in weights]
    words = [f"weights {':'.join(shown)}"] * bool(shown) + ["standardised"] * standardise
    marks = [f".weights-{'-'.join(shown)}"] * bool(shown) + [".standardised"] * standardise
    title = " + ".join(spec.title for spec in several) + (f" ({', '.join(words)})" if words else "")
    key = "+".join(spec.name for spec in several) + "".join(marks)
    return SeveralTeachers(key, title, several=several, weights=tuple(map(float, weights)), standardise=standardise)


def spelled(name: str) -> str:
    """Return a teacher's name with one spelling of what several are combined by: of equal ratios, the smallest."""
    spec, (members, options) = get(name), options_of(name)
    if not isinstance(spec, SeveralTeachers) or not options:
        return name
    given = [f"weights={','.join(f'{weight:g}' for weight in spec.weights)}"] * bool(spec.weights)
    given += ["standardise=true"] * spec.standardise
    return "?".join([members, *(["&".join(given)] if given else [])])


def ratio(weights: list[Fraction]) -> list[int]:
    """Return the smallest whole numbers of a ratio: 4:2, 2:1 and 1:0.5 are one run."""
    whole = math.lcm(*(weight.denominator for weight in weights))
    numbers = [int(weight * whole) for weight in weights]
    return [number // math.gcd(*numbers) for number in numbers]


def get_one(name: str) -> TeacherSpec:
    """Return the teacher that `[NAME=]WHERE[:OUTPUT]` names."""
    alias, where, output = parsed(name)
    if output and output not in OUTPUTS:
        refuse_misspelt(name)
        raise InputError(
            f"teacher '{name}': '{output}' is not one of {', '.join(OUTPUTS)}{nearest(output, OUTPUTS)} "
            "(after the colon stands what is taken of the checkpoint)"
        )
    spec = found(name, where, output or None)
    spec = replace(spec, head=head_in(name) or spec.head)
    if spec.head and (spec.reads_names or spec.is_imported):
        what = "a text tower has" if spec.reads_names else "embeddings without a model have"
        raise InputError(f"teacher '{name}': {what} no classifier; leave head out")
    if not alias and not name.startswith("="):
        return spec
    if alias == NO_TEACHER:
        raise InputError(f"teacher '{name}': '{alias}' means that a run has no teacher: take another name")
    if not ALIAS.fullmatch(alias):
        raise InputError(f"teacher name '{alias}' in '{name}': use small letters, digits and '-', 63 at most")
    if alias in names():
        raise InputError(f"teacher '{name}': '{alias}' is a teacher already: take another name")
    return replace(spec, name=alias, title=alias, checkpoint=spec.checkpoint or spec.name)


def refuse_misspelt(name: str) -> None:
    """Raise InputError where a name begins with what is almost the beginning of a kind of names."""
    beginning, colon, _ = name.partition(":")
    first = beginning.rpartition("=")[2]
    hint = nearest(f"{first}:", PREFIXES)
    if colon and hint and "/" not in first and first not in names() and f"{first}:" not in PREFIXES:
        raise InputError(f"teacher '{name[:200]}': there is no '{first}:'{hint}")


def found(name: str, where: str, output: Any) -> TeacherSpec:
    """Return the teacher that the first kind which knows `where` makes of it; `name` is what the user wrote."""
    for kind in KINDS:
        if spec := kind(where, output):
            return spec
    if not output or ":" in where:
        refuse_misspelt(name)
    if "/" in where and not HUB_ID.fullmatch(where.partition("@")[0]):
        raise InputError(f"teacher '{where[:200]}': there is no such folder")
    hint = f" There is no such folder, and a hub model needs its commit: '{where}@<40 hex digits>'."
    hint = hint if HUB_ID.fullmatch(where) else ""
    raise InputError(
        f"unknown teacher '{where[:200]}'{nearest(where[:200], names())} (known: {', '.join(names())}).{hint}"
    )
