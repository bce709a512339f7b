"""The config: read strictly, refused with file, line, key and the nearest valid name.

YAML misleads (`1e-4` is a string to PyYAML, a repeated key silently wins), so scalars and keys are
checked here before anything else looks at the file. No torch here.
"""

from __future__ import annotations

import copy
import math
import os
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from clipkd.core.artifacts import MANIFEST, read_json
from clipkd.core.environment import TOKEN, without_password
from clipkd.core.errors import InputError, nearest
from clipkd.plugins import (
    datasets,
    methods,
    prototype_forms,
    recipes,
    students,
    teachers,
)
from clipkd.spec import class_names

Key = tuple[str | int, ...]
Complaint = Callable[[Key, str], InputError]
"""Makes the error that names a place: (key, message) -> error."""

SCHEMA = Path(__file__).with_name("config.schema.yaml")
MAX_BYTES = 100_000
MAX_DEPTH = 12
TEMPLATE = "__use_yte__"
"""With this key Snakemake takes a config for a template and runs the Python in it."""
# 010 is 8 to some readers of YAML and 10 to others: it is no number here.
FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
NOT_FINITE = {".nan", ".inf", "-.inf", "+.inf", "nan", "inf", "-inf", "+inf"}
OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)

# JSON Schema takes 5.0 for an integer; a command line that gets "5.0" as a number of epochs does not.
Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


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
            depth = 0
            for token in yaml.scan(text, Loader=yaml.SafeLoader):
                where = f"{self.path}:{token.start_mark.line + 1}"
                if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
                    raise InputError(f"{where}: anchors, aliases and tags have no place in a config")
                depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
                if depth > MAX_DEPTH:
                    raise InputError(f"{where}: nested too deeply (more than {MAX_DEPTH} levels)")
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except OSError as error:
            raise InputError(f"config file {self.path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise InputError(f"{self.path} is not UTF-8 text") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
            raise InputError(f"{self.path}{line}: not YAML: {problem}") from None

    def value(self, node: yaml.Node, key: Key) -> Any:
        """Return a node's value; note its line (of a map's entry, where its name stands)."""
        self.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            values: dict[str, Any] = {}
            for name_node, value_node in node.value:
                name = name_node.value
                if not isinstance(name_node, yaml.ScalarNode):
                    raise self.error(key, "a key must be a plain word")
                line = name_node.start_mark.line + 1
                if name == TEMPLATE:
                    raise InputError(
                        f"{self.path}:{line}: '{TEMPLATE}' makes Snakemake run code from a config: refused"
                    )
                if name in values:
                    raise InputError(f"{self.path}:{line}: key {short(repr(name))} stands twice; keep one")
                self.lines[(*key, name)] = line
                values[name] = self.value(value_node, (*key, name))
            return values
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*key, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self.scalar(node, key)

    def scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        """Return a scalar's value; quoted, it is text."""
        try:
            return no_secret(node.value) if node.style is not None else meant(no_secret(node.value))
        except ValueError as error:
            raise self.error(key, str(error)) from None

    def error(self, key: Key, message: str) -> InputError:
        """Return an error that names file, line and key."""
        known = next((key[:depth] for depth in range(len(key), -1, -1) if key[:depth] in self.lines), ())
        return InputError(f"{self.path}:{self.lines.get(known, 1)}: {spelled(key)}: {message}")


def meant(text: str) -> Any:
    """Return what a person means by a plain scalar: 1e-4 is a number, `no` is a word.

    Raises:
        ValueError: a number that is not finite.
    """
    if text in {"", "~", "null"}:
        return None
    if text in {"true", "false"}:
        return text == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    if FLOAT.fullmatch(text) or text.lower() in NOT_FINITE:
        raise ValueError(f"{short(text)} is not a finite number")
    return text


def no_secret(text: str) -> str:
    """Return the text; a config is shown in logs and reports, so that nothing secret may stand in it.

    Raises:
        ValueError: it holds a token of the Hugging Face hub, or an address with a password.
    """
    if TOKEN.search(text):
        raise ValueError("a token has no place in a config: give it as HF_TOKEN, or with `hf auth login`")
    if without_password(text) != text:
        raise ValueError("an address with a user or password has no place in a config")
    return text


def short(text: str) -> str:
    """Return `text`, its end cut off where it would flood a message."""
    return text if len(text) <= 200 else f"{text[:200]}..."


def spelled(key: Key) -> str:
    """Return a key as a person writes it: grid[0].teachers."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return short(text.removeprefix(".")) or "the config"


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of a whole config: every key, its type and its range."""
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def of_a_part(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a file that is merged over others: no key need be there."""
    properties = {
        name: {**found, "required": []} if found["type"] == "object" else found
        for name, found in schema["properties"].items()
    }
    return {**schema, "required": [], "properties": properties}


def load(
    paths: list[Path], schema: dict[str, Any], overrides: dict[str, Any] | None = None, data: Path | None = None
) -> dict[str, Any]:
    """Read, check and merge config files: a later file's scalars and lists replace an earlier one's.

    Args:
        paths: config files, base first.
        schema: the JSON schema of a whole config.
        overrides: values from the command line, last.
        data: the data folder, where it is asked too whether the sources are there.

    Raises:
        InputError: naming file, line, key, value and the nearest valid name.
    """
    files = [Source(path) for path in paths]
    for file in files:
        named = file.values.get("class_names")
        if isinstance(named, dict):
            named |= {dataset: class_names.beside(given, file.path.parent) for dataset, given in named.items()}
    parts: list[tuple[dict[str, Any], Complaint]] = [(file.values, file.error) for file in files]
    parts.append((from_command_line(overrides or {}), command_line_error))
    merged: dict[str, Any] = {}
    for values, complaint in parts:
        check(values, of_a_part(schema), complaint)
        merge(merged, values)
    check(merged, schema, lambda key, message: InputError(f"the merged config: {spelled(key)}: {message}"))
    for values, complaint in parts:
        check_names(values, merged, complaint)
        if data is not None:
            check_sources(values.get("sources", {}), merged["sources"], data, complaint)
    return merged


def resolved(path: Path) -> dict[str, Any]:
    """Read a resolved config, as the workflow writes it for tables and figures: JSON, whole, as strict as the rest.

    Raises:
        InputError: it is not there, is a config file as people write it, or is no whole config; names the key.
        DataError: it is damaged.
    """
    make = "make it with `snakemake results/config.json --configfile FILE`"
    if not path.is_file():
        raise InputError(
            f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: the workflow writes it; {make}"
        )
    if path.suffix in {".yaml", ".yml"}:
        raise InputError(
            f"{path} is a config file, --config wants the resolved config, JSON, that the workflow makes of it; "
            f"{make.replace('FILE', shlex.quote(str(path)))}, and leave --config out"
        )
    config = read_json(path)

    def complaint(key: Key, message: str) -> InputError:
        return InputError(f"{path}: {spelled(key)}: {message}; {make}")

    check(config, schema(), complaint)
    check_names(config, config, complaint)
    return config


def from_command_line(value: Any, key: Key = ()) -> Any:
    """Return --config values as a file would hold them (Snakemake leaves every nested scalar as text)."""
    if isinstance(value, dict):
        return {str(name): from_command_line(child, (*key, str(name))) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [from_command_line(child, (*key, index)) for index, child in enumerate(value)]
    try:
        return meant(no_secret(value)) if isinstance(value, str) else value
    except ValueError as error:
        raise command_line_error(key, str(error)) from None


def command_line_error(key: Key, message: str) -> InputError:
    """Return an error about a value given with --config."""
    return InputError(f"--config: {spelled(key)}: {message}")


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Merge maps key by key; anything else replaces what was there."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def check(values: Any, schema: dict[str, Any], complaint: Complaint) -> None:
    """Raise the complaint about the first thing that the schema refuses."""
    problems = sorted(Validator(schema).iter_errors(values), key=lambda e: [str(p) for p in e.absolute_path])
    for problem in problems:
        key = tuple(problem.absolute_path)
        if problem.validator == "additionalProperties" and isinstance(problem.instance, dict):
            known = list(problem.schema["properties"])
            unknown = next(name for name in problem.instance if name not in known)
            message = f"unknown key {short(repr(unknown))}{nearest(unknown, known)} (known: {', '.join(known)})"
            raise complaint((*key, unknown), message)
        raise complaint(key, explain(problem))


def explain(problem: jsonschema.ValidationError) -> str:
    """Return a schema violation in words."""
    rule, value, allowed = problem.validator, problem.instance, problem.validator_value
    if rule == "type":
        return f"{short(repr(value))} is not of type {allowed}"
    if rule == "enum" and isinstance(allowed, list):
        known = [str(choice) for choice in allowed]
        return f"{short(repr(value))} is not one of {', '.join(known)}{nearest(str(value), known)}"
    if rule == "pattern" and "propertyNames" in problem.absolute_schema_path:
        known = (teachers if problem.absolute_path[0] == "teachers" else datasets).names()
        return f"{short(repr(value))} is no name: use small letters, digits and '-'{nearest(str(value), known)}"
    if rule == "uniqueItems":
        return f"{short(repr(value))} names something twice"
    return short(problem.message)


def check_names(values: dict[str, Any], merged: dict[str, Any], complaint: Complaint) -> None:
    """Raise the complaint about a name in `values` that nothing stands behind, given the whole config."""
    sources, own = merged["sources"], merged.get("teachers", {})
    axes: dict[str, Any] = {
        "datasets": lambda name: datasets.get(name, sources.get(name.lower())),
        "teachers": lambda name: teachers.get(teachers.resolved(name, own)),
        "students": students.get,
        "train_types": methods.get,
        "recipes": recipes.get,
    }
    for name, where in values.get("teachers", {}).items():
        if name in teachers.names():
            raise complaint(("teachers", name), f"'{name}' is a teacher already: take another name")
        try:
            teachers.get(f"{name}={where}")
        except InputError as problem:
            raise complaint(("teachers", name), str(problem)) from None
    for name, where in values.get("sources", {}).items():
        if name in datasets.names() and sources[name] == where:
            try:
                datasets.get(name, where)
            except InputError as problem:
                raise complaint(("sources", name), str(problem)) from None
    for number, block in enumerate(values.get("grid", [])):
        for axis, get in axes.items():
            for index, name in enumerate(block[axis]):
                try:
                    get(name)
                except InputError as problem:
                    raise complaint(("grid", number, axis, index), str(problem)) from None
    form = values.get("prototypes", {}).get("form")
    if form is not None:
        try:
            prototype_forms.get(form)
            if form == merged["prototypes"].get("form") and shows_images(merged):
                prototype_forms.refuse_too_few(form, merged["prototypes"]["per_class"])
        except InputError as problem:
            raise complaint(("prototypes", "form"), str(problem)) from None
    asked = {name.lower() for block in merged["grid"] for name in block["datasets"]} | set(datasets.names())
    for key in ("sources", "class_names"):
        for name in values.get(key, {}):
            if name not in asked:
                raise complaint((key, name), f"no block of the grid has a dataset '{name}'{nearest(name, asked)}")
    for name, given in values.get("class_names", {}).items():
        check_class_names(name, given, sources.get(name), complaint)


def check_sources(sources: dict[str, str], merged: dict[str, str], data: Path, complaint: Complaint) -> None:
    """Raise the complaint about a source that is a path to nothing, or another folder than its dataset is packed from.

    A dataset that is packed already needs no source.
    """
    for name, source in sources.items():
        if merged[name] != source:
            continue  # a later file names another one
        packed = data / "datasets" / name
        if not (packed / MANIFEST).exists():
            if datasets.is_path(source) and not os.path.exists(os.path.expanduser(source)):
                raise complaint(("sources", name), f"{short(source)} does not exist, and {packed} is not packed yet")
            continue
        try:
            datasets.refuse_other_source(datasets.get(name, source), packed, source)
        except InputError as problem:
            raise complaint(("sources", name), str(problem)) from None


def shows_images(config: dict[str, Any]) -> bool:
    """Return whether a teacher of the grid is shown images: what a text tower says, no number of images limits."""
    own = config.get("teachers", {})
    named = {teachers.resolved(name, own) for block in config["grid"] for name in block["teachers"]}
    return any(not one.reads_names for name in named for one in teachers.get(name).members)


def check_class_names(name: str, given: class_names.Given, source: str | None, complaint: Complaint) -> None:
    """Raise the complaint about class names that are none, or, where the classes are known already, not theirs."""
    key = ("class_names", name)
    try:
        found = class_names.read(given, spelled(key))
        spec = datasets.get(name, source)
        classes = spec.known_classes(source)
        if classes is not None:
            found.of(classes)
        elif spec.classes not in (None, len(found.names)):
            raise InputError(f"{len(found.names)} names, but {spec.title} has {spec.classes} classes")
    except InputError as problem:
        raise complaint(key, str(problem).removeprefix(f"{spelled(key)}: ")) from None
