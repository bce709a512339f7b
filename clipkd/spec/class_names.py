"""Class names in plain words, for datasets whose own are ids or numbers. No torch here: the Snakefile reads this.

They are a map from each class (for images in folders: the folder's name) to its name, or a list in the order of the
classes; in the config, on the command line, or in a file (YAML or JSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clipkd.core.accents import composed, written_otherwise
from clipkd.core.errors import InputError, nearest
from clipkd.core.fingerprint import digest
from clipkd.core.words import counted

MAX_BYTES = 5_000_000
MAX_LENGTH = 200
FORM = "a map from each class to its name, or a list of names in the order of the classes"
Given = str | dict[str, str] | list[str]
"""A file's path, or the names themselves."""
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class ClassNames:
    """Names of a dataset's classes, as the user gives them."""

    where: str = field(compare=False)
    """Where the names were given, for messages: the file, or the key of the config."""
    classes: tuple[str, ...] | None
    """The dataset's own names, in the order of `names`; None: the names are in the order of the classes."""
    names: tuple[str, ...]

    def identity(self) -> str:
        """Return the names' part of an identity."""
        same = list(self.names) if self.classes is None else dict(zip(self.classes, self.names, strict=True))
        return f"given, sha256 {digest(same)[:16]}"

    def of(self, classes: Sequence[str]) -> list[str]:
        """Return the name of each of a dataset's classes.

        Raises:
            InputError: a class has no name, or a name has no class, or a list could mean two orders; says which.
        """
        if self.classes is None:
            by_number = sorted(classes, key=by_numbers)
            if by_number != list(classes) and sorted(classes) == list(classes):
                # torchvision's order of folders is the alphabet's; a person who writes a list counts.
                first, second = next(pair for pair in zip(classes, by_number, strict=True) if pair[0] != pair[1])
                raise InputError(
                    f"{self.where}: a list of names, but the classes' own names hold numbers, whose order as text "
                    f"({first!r} before {second!r}) is not their order as numbers: write a map from each class to its "
                    f"name, for example {{{json.dumps(first)}: {json.dumps(self.names[0])}, ...}}"
                )
            if len(self.names) != len(classes):
                raise InputError(
                    f"{self.where}: a list of {counted(len(self.names), 'name')}, but there are {len(classes)} "
                    f"classes: {listed(classes)}"
                )
            return list(self.names)
        # Folders' names may come from a system that composes accents in another way than who writes the map.
        named = {composed(one): name for one, name in zip(self.classes, self.names, strict=True)}
        there = {composed(one) for one in classes}
        for one in self.classes:
            if composed(one) not in there:
                raise InputError(f"{self.where}: unknown class {one!r}{nearest(one, classes)} ({listed(classes)})")
        missing = [one for one in classes if composed(one) not in named]
        if missing:
            raise InputError(f"{self.where}: no name for {listed(missing)}; name each of the {len(classes)} classes")
        return [named[composed(one)] for one in classes]


def read(given: Given, where: str) -> ClassNames:
    """Return class names: those that are given, or those in the file that is.

    Args:
        given: a path, a map or a list.
        where: what messages call the place where it was given.

    Raises:
        InputError: a name is not text, empty, too long or a duplicate; the file can't be read, or holds something else.
    """
    return from_file(Path(given)) if isinstance(given, str) else made(given, where, {})


def from_option(text: str) -> ClassNames:
    """Return the class names of a command line: a file's path, or the names as JSON."""
    if not text.lstrip().startswith(("{", "[")):
        return from_file(Path(text))
    return made(from_json(text, "--class-names"), "--class-names", {})


def from_file(path: Path) -> ClassNames:
    """Return the class names in a YAML or JSON file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than {MAX_BYTES:,} bytes: it holds no class names")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"class names in {path}: {error.strerror or error}{written_otherwise(path)}") from None
    except ValueError:  # not text, or a path with a null in it
        raise InputError(f"class names in {path}: not UTF-8 text") from None
    lines: dict[Any, int] = {}
    found = from_json(text, str(path)) if path.suffix.lower() == ".json" else from_yaml(text, path, lines)
    return made(found, str(path), lines)


def from_json(text: str, where: str) -> Any:
    """Return what a JSON text holds; a duplicate class is refused."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{where}: duplicate class {twice!r}; keep one")
        return values

    try:
        return json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from None


def from_yaml(text: str, path: Path, lines: dict[Any, int]) -> Any:
    """Return what a YAML text holds, every scalar as text: `0` and `no` may be classes. Notes the line of each."""
    try:
        root = yaml.compose(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None

    def scalar(node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise InputError(f"{path}:{node.start_mark.line + 1}: write {FORM}; nothing is nested")
        return node.value

    if isinstance(root, yaml.SequenceNode):
        lines |= {number: node.start_mark.line + 1 for number, node in enumerate(root.value)}
        return [scalar(node) for node in root.value]
    if not isinstance(root, yaml.MappingNode):
        return None
    values: dict[str, str] = {}
    for key, value in root.value:
        name, line = scalar(key), key.start_mark.line + 1
        if name in values:
            raise InputError(f"{path}:{line}: duplicate class {name!r}; keep one")
        lines[name], values[name] = line, scalar(value)
    return values


def made(values: Any, where: str, lines: dict[Any, int]) -> ClassNames:
    """Return checked class names from a map or a list; `lines` holds the line of each entry."""
    if not isinstance(values, dict | list) or not values:
        raise InputError(f"{where}: class names are {FORM}")
    entries = list(values.items() if isinstance(values, dict) else enumerate(values))
    seen: dict[str, Any] = {}
    alike: dict[str, Any] = {}
    for key, name in entries:
        place = f"{where}:{lines[key]}" if key in lines else where
        place += f": {key}" if isinstance(values, dict) else f": [{key}]"
        if isinstance(values, dict) and alike.setdefault(composed(str(key)), key) != key:
            raise InputError(f"{place}: {key!r} is there twice, its accents composed in two ways; keep one")
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_LENGTH:
            shown = repr(name)[:80]
            raise InputError(f"{place}: invalid name {shown}: use one line of text, at most {MAX_LENGTH} characters")
        other = seen.setdefault(composed(spoken(name)), key)
        if other != key:
            raise InputError(
                f"{place}: {name!r} is the name of {other!r} too: a text tower could not tell them apart; "
                "make one of them more specific"
            )
    names = tuple(" ".join(name.split()) for _, name in entries)
    return ClassNames(where, tuple(key for key, _ in entries) if isinstance(values, dict) else None, names)


def by_numbers(name: str) -> list[tuple[int, str]]:
    """Return the sort key under which `2` is before `10`, and `class_2` before `class_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def spoken(name: str) -> str:
    """Return a name as it is written in a prompt: `_` in names of folders are spaces."""
    return " ".join(name.replace("_", " ").split())


def beside(given: Given, folder: Path) -> Given:
    """Return what a config file in `folder` gives: a path in it begins there."""
    return str(folder / given) if isinstance(given, str) else given


def option(given: Given) -> str:
    """Return class names as a command line takes them (see `from_option`)."""
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def listed(names: Sequence[str]) -> str:
    """Return the first few of some classes."""
    return ", ".join(map(repr, names[:5])) + (f", ... ({len(names)})" if len(names) > 5 else "")
