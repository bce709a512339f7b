"""The config: read strictly, refused with file, line, key and the nearest valid name.

YAML misleads (`1e-4` is a string to PyYAML, a repeated key silently wins), so scalars and keys are
checked here before anything else looks at the file. No torch here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from clipkd import datasets, methods, recipes, students, teachers
from clipkd.errors import InputError, nearest

Key = tuple[str | int, ...]
MAX_BYTES = 1_000_000
FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)")


class Source:
    """One config file: its values, and the line of each key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Key, int] = {}
        self.values: dict[str, Any] = {}
        root = self.parse()
        if root is None:
            raise InputError(f"{path} is empty: a config is a map of keys (see config/README.md)")
        if not isinstance(root, yaml.MappingNode):
            raise InputError(
                f"{path}: a config is a map of keys, not a {type(root).__name__.removesuffix('Node').lower()}"
            )
        self.values = self.value(root, ())

    def parse(self) -> yaml.Node | None:
        """Return the document's root node; aliases, several documents and bad bytes are refused."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise InputError(f"{self.path} is larger than {MAX_BYTES} bytes: that is no config")
            text = self.path.read_text(encoding="utf-8-sig")
            for token in yaml.scan(text, Loader=yaml.SafeLoader):
                if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
                    line = token.start_mark.line + 1
                    raise InputError(f"{self.path}:{line}: anchors, aliases and tags have no place in a config")
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except OSError as error:
            raise InputError(f"config file {self.path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise InputError(f"{self.path} is not UTF-8 text") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            raise InputError(f"{self.path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None
        except RecursionError:
            raise InputError(f"{self.path} is nested too deeply") from None

    def value(self, node: yaml.Node, key: Key) -> Any:
        """Return a node's value; note its line."""
        self.lines[key] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            values: dict[str, Any] = {}
            for name_node, value_node in node.value:
                name = name_node.value
                if not isinstance(name_node, yaml.ScalarNode):
                    raise self.error(key, "a key must be a plain word")
                if name in values:
                    raise InputError(
                        f"{self.path}:{name_node.start_mark.line + 1}: key '{name}' stands twice; keep one"
                    )
                values[name] = self.value(value_node, (*key, name))
            return values
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*key, index)) for index, child in enumerate(node.value)]
        return self.scalar(node, key)

    def scalar(self, node: yaml.Node, key: Key) -> Any:
        """Return a scalar as what a person means by it: 1e-4 is a number, `no` is a word."""
        text = node.value
        if getattr(node, "style", None) is not None:
            return text
        if text in {"", "~", "null"}:
            return None
        if text in {"true", "false"}:
            return text == "true"
        if INTEGER.fullmatch(text):
            return int(text)
        if FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                raise self.error(key, f"{text} is not a finite number")
            return number
        if text.lower() in {".nan", ".inf", "-.inf", "+.inf", "nan", "inf", "-inf"}:
            raise self.error(key, f"{text} is not a finite number")
        return text

    def error(self, key: Key, message: str) -> InputError:
        """Return an error that names file, line and key."""
        known = next((key[:depth] for depth in range(len(key), -1, -1) if key[:depth] in self.lines), ())
        return InputError(f"{self.path}:{self.lines.get(known, 1)}: {spelled(key)}: {message}")


def spelled(key: Key) -> str:
    """Return a key as a person writes it: grid[0].teachers."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".") or "the config"


def load(paths: list[Path], schema: dict[str, Any], overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read, check and merge config files: a later file's scalars and lists replace an earlier one's.

    Args:
        paths: config files, base first.
        schema: the JSON schema of a whole config.
        overrides: values from the command line, last.

    Raises:
        InputError: naming file, line, key, value and the nearest valid name.
    """
    merged: dict[str, Any] = {}
    partial = {**schema, "required": []}
    for path in paths:
        source = Source(path)
        check(source.values, partial, source.error)
        merge(merged, source.values)
    for key, value in (overrides or {}).items():
        merge(merged, {key: plain(value)})
    check(merged, schema, lambda key, message: InputError(f"the merged config: {spelled(key)}: {message}"))
    return merged


def plain(value: Any) -> Any:
    """Return a command-line override with numbers that PyYAML leaves as text ("1e-4") as numbers."""
    if isinstance(value, dict):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain(child) for child in value]
    if isinstance(value, str) and FLOAT.fullmatch(value):
        return float(value)
    return value


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Merge maps key by key; anything else replaces what was there."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def check(values: dict[str, Any], schema: dict[str, Any], error: Any) -> None:
    """Raise `error(key, message)` for the first thing that the schema or the known names refuse."""
    problems = sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(values), key=lambda e: [str(p) for p in e.absolute_path]
    )
    for problem in problems:
        raise error(tuple(problem.absolute_path), explain(problem))
    for key, value in leaves(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise error(key, f"{value} is not a finite number")
    check_names(values, error)


def leaves(value: Any, key: Key = ()) -> list[tuple[Key, Any]]:
    """Return every scalar in nested maps and lists, with its key."""
    if isinstance(value, dict):
        return [leaf for name, child in value.items() for leaf in leaves(child, (*key, name))]
    if isinstance(value, list):
        return [leaf for index, child in enumerate(value) for leaf in leaves(child, (*key, index))]
    return [(key, value)]


def explain(problem: jsonschema.ValidationError) -> str:
    """Return a schema violation in words."""
    rule, value, wanted = problem.validator, problem.instance, problem.validator_value
    if rule == "additionalProperties" and isinstance(value, dict):
        known = list(problem.schema["properties"])  # type: ignore[index]
        unknown = [name for name in value if name not in known]
        hints = [f"'{name}'{nearest(name, known)}" for name in unknown]
        return f"unknown key {', '.join(hints)} (known: {', '.join(known)})"
    if rule == "required":
        return problem.message
    if rule == "type":
        return f"{value!r} is not of type {wanted}"
    if rule == "enum" and isinstance(wanted, list):
        return f"{value!r} is not one of {', '.join(map(str, wanted))}{nearest(str(value), wanted)}"
    if rule == "uniqueItems":
        return f"{value!r} names something twice"
    return problem.message


def check_names(values: dict[str, Any], error: Any) -> None:
    """Raise `error(key, message)` for a name on an axis of the grid that nothing stands behind."""
    sources = values.get("sources") or {}
    axes: dict[str, Any] = {
        "datasets": lambda name: datasets.get(name, sources.get(name)),
        "teachers": teachers.get,
        "students": students.get,
        "train_types": methods.get,
        "recipes": recipes.get,
    }
    for number, block in enumerate(values.get("grid", [])):
        for axis, get in axes.items():
            for index, name in enumerate(block[axis]):
                try:
                    get(name)
                except InputError as problem:
                    raise error(("grid", number, axis, index), str(problem)) from None
