"""Why pydantic refuses a value, in the words of the project."""

from __future__ import annotations

import re

from pydantic_core import ErrorDetails

from clipkd.core.errors import nearest

TYPES = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "finite_number": "a finite number",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a map of keys",
    "model_type": "a map of keys",
}
LIMITS = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
}


def reason(problem: ErrorDetails) -> str:
    """Return why a value is refused."""
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", context["expected"])
        return f"{short(repr(value))} is not one of {', '.join(choices)}{nearest(str(value), choices)}"
    if kind == "value_error":
        return f"{short(repr(value))} {context['error']}"
    if kind == "list_type" and isinstance(value, str | int | float):
        return f"{short(repr(value))} is not a list: write [{short(str(value))}]"
    if kind in TYPES:
        return f"{short(repr(value))} is not {TYPES[kind]}"
    if kind in LIMITS:
        limits = {
            name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit
            for name, limit in context.items()
        }
        return f"{short(repr(value))} {LIMITS[kind].format(**limits)}"
    return f"{short(repr(value))}: {problem['msg']}"


def short(text: str) -> str:
    """Return `text`, its end cut off where it would flood a message."""
    return text if len(text) <= 200 else f"{text[:200]}..."
