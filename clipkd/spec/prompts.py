"""Prompts: class names put into sentences, as a text tower reads them. No torch here."""

from __future__ import annotations

from clipkd.core.errors import InputError
from clipkd.spec.class_names import spoken

TEMPLATES = (
    "a photo of a {}.",
    "a picture that shows a {}.",
    "a small, blurry photo of a {}.",
    "a close-up photo of one {}.",
    "a photo of a {} seen from afar.",
    "a drawing of a {}.",
    "this is a {}.",
)
"""The sentences that class names are put into, where the user gives none."""


def checked_template(text: str) -> str:
    """Return a template; InputError unless it has exactly one place for a name, `{}`."""
    if text.count("{}") != 1:
        raise InputError(f"template '{text}': write one {{}} where the class name belongs, as in 'a photo of a {{}}.'")
    return text


def prompts(name: str, templates: tuple[str, ...]) -> list[str]:
    """Return every template with a class name in it; `_` in names of folders are spaces."""
    return [template.replace("{}", spoken(name)) for template in templates]
