"""What keys of a config are made of: fields with default, range, help text and command-line flag. No torch here."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def setting(default: Any, description: str, flag: str | None = None, **limits: Any) -> Any:
    """Return a field.

    Args:
        default: its value where no config gives one; `...`: a config must.
        description: one help text, for the schema, the table of keys and the command line.
        flag: the command-line option that takes the same value.
        limits: pydantic's (ge, gt, le, ...).
    """
    kind = {"default_factory": default} if callable(default) else {"default": default}
    return Field(description=description, json_schema_extra={"flag": flag} if flag else None, **kind, **limits)


def distinct(values: list[Any]) -> list[Any]:
    """Return a list whose entries differ."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"lists {value!r} twice")
    return values


class Settings(BaseModel):
    """Keys of a config; unknown ones and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def flag(cls, name: str) -> str:
        """Return the command-line option of a field."""
        extra = cls.model_fields[name].json_schema_extra
        assert isinstance(extra, dict)
        return str(extra["flag"])

    def flags(self, *names: str, unless_default: bool = False) -> list[Any]:
        """Return flags and values for a command line; `unless_default`: of those that differ from their default."""
        fields = type(self).model_fields
        given = {name: getattr(self, name) for name in names}
        if unless_default:
            given = {
                name: value
                for name, value in given.items()
                if value != fields[name].get_default(call_default_factory=True)
            }
        return [word for name, value in given.items() for word in (self.flag(name), value)]
