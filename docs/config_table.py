"""Write the table of keys in config/README.md, and workflow/schemas/config.schema.yaml, from the config's fields.

Run as `python docs/config_table.py [--check]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import yaml
from generated import ROOT, main
from pydantic import BaseModel

from clipkd.spec.settings import Block, Config, OwnRecipe, OwnTeacher

SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
CONFIG = ROOT / "config/config.yaml"
MANY = {"grid": "[]", "teachers": ".NAME", "recipes": ".NAME"}
"""What comes between a key that holds several of a kind, and theirs."""
MODELS: dict[str, Any] = {"grid": Block, "teachers": OwnTeacher, "recipes": OwnRecipe}
WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
SIGNS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def entries(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, dict[str, Any], str, bool]]:
    """Yield path, schema, flag and whether it is required, of every key, in the order of the fields."""
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        path, extra = prefix + name, field.json_schema_extra
        flag = str(extra["flag"]) if isinstance(extra, dict) else ""
        yield path, schema["properties"][name] | {"description": field.description}, flag, field.is_required()
        inner = MODELS.get(name, field.annotation) if model is Config else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from entries(inner, f"{path}{MANY.get(name, '')}.")


def kind(schema: dict[str, Any]) -> str:
    """Return in words which values a key takes."""
    if "enum" in schema:
        return " or ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "oneOf" in schema:
        return f"{kind(schema['oneOf'][0])}; or a list"
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if schema.get("type") == "array":
        return f"list of {kind(schema['items']).replace('text', 'names')}"
    if schema.get("type") == "object":
        (of,) = schema.get("patternProperties", {"": schema.get("additionalProperties")}).values()
        return f"map of {kind(of)}" if isinstance(of, dict) else "map"
    word = WORDS.get(schema.get("type", "object"), "map")
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
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    lines = ["| key | values | in `config.yaml` | `clipkd` option | meaning |", "|---|---|---|---|---|"]
    for path, found, flag, required in entries():
        needed = "" if required or "[]" not in path else " Optional."
        meaning = " ".join(found.get("description", "").split()).replace("|", "\\|")
        option = f"`{flag}`" if flag else ""
        lines.append(f"| `{path}` | {kind(found)} | {value(config, path)} | {option} | {meaning}{needed} |")
    return "\n".join(lines)


def write_schema(is_check: bool) -> int:
    """Write the JSON schema, for editors and the workflow catalog, as YAML; only compare it where `is_check`."""
    text = yaml.safe_dump(Config.model_json_schema(), sort_keys=False, allow_unicode=True, width=120)
    if is_check:
        if not SCHEMA.exists() or SCHEMA.read_text(encoding="utf-8") != text:
            print(f"{SCHEMA.relative_to(ROOT)} is out of date: run `python docs/config_table.py`", file=sys.stderr)
            return 1
        return 0
    SCHEMA.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(write_schema("--check" in sys.argv) or main(ROOT / "config/README.md", "keys", table(), str(__doc__)))
