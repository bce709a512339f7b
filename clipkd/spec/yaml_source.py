"""A config file as YAML: its values, strictly read, and the line of each key. No torch here.

YAML misleads (`1e-4` is a string to PyYAML, a repeated key silently wins), so scalars and keys are checked here before
anything else looks at the file.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from clipkd.core.environment import TOKEN, without_secrets
from clipkd.core.errors import InputError
from clipkd.core.refusals import short

Key = tuple[str | int, ...]

MAX_BYTES = 100_000
MAX_DEPTH = 12
TEMPLATE = "__use_yte__"
"""With this key Snakemake takes a config for a template and runs the Python in it."""
# 010 is 8 to some readers of YAML and 10 to others: not a number here.
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


class YamlSource:
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
                raise InputError(f"{self.path} is larger than {MAX_BYTES} bytes: that is not a config")
            text = self.path.read_text(encoding="utf-8-sig")
            depth = 0
            for token in yaml.scan(text, Loader=yaml.SafeLoader):
                where = f"{self.path}:{token.start_mark.line + 1}"
                if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
                    raise InputError(f"{where}: anchors, aliases and tags are not allowed in a config")
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
            raise InputError(f"{self.path}{line}: not YAML: {problem}{advice(str(problem))}") from None

    def value(self, node: yaml.Node, key: Key) -> Any:
        """Return a node's value; note its line (of a map's entry, that of its name)."""
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
                    raise InputError(f"{self.path}:{line}: duplicate key {short(repr(name))}; keep one")
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
        return InputError(f"{self.line(key)}: {spelled(key)}: {message}")

    def line(self, key: Key) -> str:
        """Return the file and the line of a key, or of the nearest one that holds it."""
        known = next((key[:depth] for depth in range(len(key), -1, -1) if key[:depth] in self.lines), ())
        return f"{self.path}:{self.lines.get(known, 1)}"


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
    """Return the text; a config is shown in logs and reports, so it must hold no secret.

    Raises:
        ValueError: it holds a token of the Hugging Face hub, or an address with a password or query.
    """
    if TOKEN.search(text):
        raise ValueError("tokens are not allowed in a config: set HF_TOKEN, or use `hf auth login`")
    if "://" in text and without_secrets(text) != text:
        raise ValueError(
            "an address with a user, a password or a query, which may be a signature, is not allowed in a config"
        )
    return text


def spelled(key: Key) -> str:
    """Return a key as a person writes it: grid[0].teachers."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return short(text.removeprefix(".")) or "the config"


def advice(problem: str) -> str:
    """Return what to do about the commonest problems that a YAML parser names in its own words."""
    if "'\\t'" in problem:
        return ": indent with spaces, not tabs"
    if "got '?'" in problem:
        return ": put a value with a question mark in quotes"
    if "<block end>" in problem:
        return ": the line is not indented like those beside it"
    return ""
