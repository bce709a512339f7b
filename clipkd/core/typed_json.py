"""JSON files as typed models: a missing, unknown or impossible field is a DataError that names file and field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from clipkd.core.errors import DataError
from clipkd.core.files import read_json

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class Model(BaseModel):
    """A frozen model without conversions: a number in quotes is not a number, and NaN is none either."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Excerpt(Model):
    """A model of the fields that are read, of an object that has others too."""

    model_config = ConfigDict(extra="ignore")


AnyModel = TypeVar("AnyModel", bound=Model)


def read_model(path: Path, model: type[AnyModel]) -> AnyModel:
    """Read a JSON file as a model.

    Raises:
        DataError: the file is missing or damaged, or a field is missing, unknown or impossible.
    """
    try:
        data = read_json(path, is_strict=False)  # a NaN is refused below, under its field's name
    except DataError as error:
        raise DataError(f"{error}; {remedy(path)}") from None
    return validated(model, data, path)


def validated(model: type[AnyModel], data: Any, path: Path) -> AnyModel:
    """Return the content of a file as a model; raise DataError for its first wrong field."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
    raise wrong_field(path, dotted(first), problem(first))


def wrong_field(path: Path, name: str, what: str) -> DataError:
    """Return the error about one field of a file."""
    return DataError(f"{path}: field '{name}' {what}; {remedy(path)}" if name else f"{path} {what}; {remedy(path)}")


def remedy(path: Path) -> str:
    """Return what to do about a damaged file of a run or an artefact."""
    return f"delete {path.parent} to regenerate it"


def dotted(error: ErrorDetails) -> str:
    """Return the name of a field: `last.test.top1`, `seconds_per_epoch[2]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")


def problem(error: ErrorDetails) -> str:
    """Return what is wrong with a field, in words."""
    kind, value, limits = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is unknown"
    if kind == "value_error":
        return f"is {value!r}, {limits['error']}"
    expected = {
        "float_type": "not a finite number",
        "finite_number": "not a finite number",
        "int_type": "not a whole number",
        "string_type": "not a text",
        "string_too_short": "not a text",
        "string_pattern_mismatch": "not a text",
        "list_type": "not a list",
        "dict_type": "not an object",
        "model_type": "not an object",
        "less_than_equal": f"should be at most {limits.get('le'):g}" if "le" in limits else "",
        "greater_than_equal": f"should be at least {limits.get('ge'):g}" if "ge" in limits else "",
        "literal_error": f"should be {limits.get('expected')}",
    }
    return f"is {value!r}, {expected.get(kind, error['msg'])}"
