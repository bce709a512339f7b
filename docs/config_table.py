"""Write the table of config keys in config/README.md from the schema: `python docs/config_table.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import yaml
from generated import ROOT, main

SCHEMA = ROOT / "clipkd/spec/config.schema.yaml"
CONFIG = ROOT / "config/config.yaml"
SIGNS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}"}


def entries(schema: dict[str, Any], whole: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict, bool]]:
    """Yield path, schema and whether it is required, of every key below `schema`, in the schema's order."""
    for name, found in schema.get("properties", {}).items():
        if "$ref" in found:
            found = {**whole["$defs"][found["$ref"].rsplit("/", 1)[1]], **found}
        path = prefix + name
        yield path, found, name in schema.get("required", [])
        if found.get("type") == "array":
            yield from entries(found["items"], whole, f"{path}[].")
        else:
            yield from entries(found, whole, f"{path}.")


def kind(schema: dict[str, Any]) -> str:
    """Return in words which values a key takes."""
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    of = schema.get("type")
    if of == "array":
        inner = schema["items"]
        return "list of maps" if inner["type"] == "object" else f"list of {kind(inner).replace('text', 'names')}"
    if of == "object":
        inner = schema.get("additionalProperties")
        is_mixed = isinstance(inner, dict) and isinstance(inner["type"], list)
        return "map" if "properties" in schema else "map of texts, maps or lists" if is_mixed else "map of text"
    words = {"string": "text", "integer": "whole number", "number": "number"}
    if schema.get("pattern") == "^all$":
        return f"{kind(schema | {'type': 'integer', 'pattern': None})}, or `all`"
    word = words[of]
    limits = [sign.format(schema[name]) for name, sign in SIGNS.items() if name in schema]
    return f"{word}, {', '.join(limits)}" if limits else word


def value(config: dict[str, Any], path: str) -> str:
    """Return the value in config/config.yaml, where the key has one plain value there."""
    found: Any = config
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return "" if found is None or isinstance(found, list | dict) else f"`{json.dumps(found)}`".replace('"', "")


def table() -> str:
    """Return the table of all keys."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    lines = ["| key | values | in `config.yaml` | meaning |", "|---|---|---|---|"]
    for path, found, required in entries(schema, schema):
        needed = "" if required or "[]" not in path else " Optional."
        meaning = " ".join(found.get("description", "").split()).replace("|", "\\|")
        lines.append(f"| `{path}` | {kind(found)} | {value(config, path)} | {meaning}{needed} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(ROOT / "config/README.md", "keys", table(), str(__doc__)))
