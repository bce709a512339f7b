"""The config: read strictly, checked against its fields, refused with file, line, key and the nearest valid name.

No torch here: the Snakefile reads this.
"""

from __future__ import annotations

import copy
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clipkd.core.accents import written_otherwise
from clipkd.core.artifacts import MANIFEST
from clipkd.core.errors import InputError, nearest
from clipkd.core.files import read_json
from clipkd.core.refusals import reason, short
from clipkd.plugins import datasets, methods, prototype_forms, recipes, students, teachers
from clipkd.plugins.teachers import TeacherSpec
from clipkd.spec import chains, class_names
from clipkd.spec.cells import NO_TEACHER
from clipkd.spec.own_recipes import ONE, SEVERAL
from clipkd.spec.settings import Block, Config
from clipkd.spec.yaml_source import Key, YamlSource, meant, no_secret, spelled

Complaint = Callable[[Key, str], InputError]
"""Makes the error that names a place: (key, message) -> error."""

ANY = Block(name="any", datasets=["-"], teachers=["-"], students=["-"], train_types=["-"], recipes=["-"], seeds=[0])
"""A block of a grid."""
RENAMED = {"crop_views": "views"}
"""Keys of before -> what they are called now."""


def load(paths: list[Path], overrides: dict[str, Any] | None = None, data: Path | None = None) -> Config:
    """Read, check and merge config files: a later file's scalars and lists replace an earlier one's.

    Args:
        paths: config files, base first.
        overrides: values from the command line, last.
        data: the data folder, to also check that the sources are there.

    Raises:
        InputError: naming file, line, key, value and the nearest valid name.
    """
    files = [YamlSource(path) for path in paths]
    for file in files:
        named = file.values.get("class_names")
        if isinstance(named, dict):
            named |= {dataset: class_names.beside(given, file.path.parent) for dataset, given in named.items()}
    parts: list[tuple[dict[str, Any], Complaint]] = [(file.values, file.error) for file in files]
    parts.append((from_command_line(overrides or {}), command_line_error))
    merged: dict[str, Any] = {}
    for values, complaint in parts:
        check({"grid": [ANY]} | values, complaint)  # a part of a config needs no grid of its own
        merge(merged, values)
    config = check(merged, lambda key, message: InputError(f"the merged config: {spelled(key)}: {message}"))

    def of_teacher(name: str, message: str) -> InputError:
        complaint = next(complaint for values, complaint in reversed(parts) if name in values.get("teachers", {}))
        return complaint(("teachers", name), message)

    for values, complaint in parts:
        check_recipes(values, config, complaint)
    config = chains.pinned(config, of_teacher)
    for values, complaint in parts:
        check_names(values, config, complaint)
        if data is not None:
            check_sources(values.get("sources", {}), config.sources, data, complaint)
    of_grid = next((file for file in reversed(files) if "grid" in file.values), None)
    if of_grid is None or "grid" in (overrides or {}):
        return config
    return config.with_lines([of_grid.line(("grid", number)) for number in range(len(config.grid))])


def resolved(path: Path) -> Config:
    """Read a resolved config, as the workflow writes it for tables and figures: JSON, whole, as strict as the rest.

    Raises:
        InputError: it is missing, is a config file as people write it, or is not a whole config; names the key.
        DataError: it is damaged.
    """
    make = "run `snakemake results/config.json --configfile FILE` to write it"
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; {make}")
    if path.suffix in {".yaml", ".yml"}:
        raise InputError(
            f"{path} is a config file; --config takes the resolved config, JSON, that the workflow writes; "
            f"{make.replace('FILE', shlex.quote(str(path)))}, and leave --config out"
        )
    values = read_json(path)

    def complaint(key: Key, message: str) -> InputError:
        return InputError(f"{path}: {spelled(key)}: {message}; {make}")

    config = check(values, complaint)
    check_recipes(values, config, complaint)
    check_names(values, config, complaint)
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


def check(values: Any, complaint: Complaint) -> Config:
    """Return a whole config; raise the complaint about the first value that its fields refuse."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A misspelt key is also a missing one: the first is what to mend.
        problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
        key = tuple(part for part in problem["loc"] if part not in {"[key]", ONE, SEVERAL})
        raise complaint(key[:-1] if problem["type"] == "missing" else key, explain(problem)) from None
    for key in nulls(values):
        raise complaint(key, "None is not a value: leave the key out to keep its default")
    return config


def nulls(value: Any, key: Key = ()) -> Iterator[Key]:
    """Yield the keys without a value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        if child is None:
            yield (*key, name)
        yield from nulls(child, (*key, name))


def explain(problem: ErrorDetails) -> str:
    """Return in words why pydantic refuses a value."""
    kind, value = problem["type"], problem["input"]
    key, last = problem["loc"], str(problem["loc"][-1]) if problem["loc"] else ""
    if kind == "extra_forbidden":
        if last in RENAMED:
            return f"{short(repr(last))} is called '{RENAMED[last]}' now"
        known = list(model_at(key[:-1]).model_fields)
        return f"unknown key {short(repr(last))}{nearest(last, known)} (known: {', '.join(known)})"
    if kind == "missing":
        return f"'{last}' is a required key"
    if kind == "string_pattern_mismatch" and last == "[key]":
        known = {"teachers": teachers.names, "recipes": recipes.names}.get(str(key[0]), datasets.names)()
        return f"invalid name {short(repr(value))}: use lowercase letters, digits and '-'{nearest(str(value), known)}"
    return reason(problem)


def model_at(key: Key) -> type[BaseModel]:
    """Return the model that holds the fields at a key of the config."""
    model: type[BaseModel] = Config
    for part in key:
        if isinstance(part, str) and part in model.model_fields:
            of = model.model_fields[part].annotation
            kinds = [getattr(one, "__origin__", one) for one in (of, *getattr(of, "__args__", ()))]
            model = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), model)
    return model


@contextmanager
def placed(key: Key, complaint: Complaint) -> Iterator[None]:
    """Have an InputError name the key that it is about."""
    try:
        yield
    except InputError as problem:
        raise complaint(key, str(problem)) from None


def check_names(values: dict[str, Any], config: Config, complaint: Complaint) -> None:
    """Raise the complaint about a name in `values` that is unknown, given the whole config."""
    sources = config.sources
    axes: dict[str, Any] = {
        "datasets": lambda name: datasets.get(name, config.source(name)),
        "teachers": lambda name: teachers.get(config.resolved(name)),
        "students": students.get,
        "train_types": methods.get,
        "recipes": lambda name: check_recipe(name, config),
    }
    for name in values.get("teachers", {}):
        if name in teachers.names():
            raise complaint(("teachers", name), f"'{name}' is the name of a built-in teacher; choose another name")
        with placed(("teachers", name), complaint):
            check_head(teachers.get(config.resolved(name)), config)
    for name, where in values.get("sources", {}).items():
        if name in datasets.names() and sources[name] == where:
            with placed(("sources", name), complaint):
                datasets.get(name, where)
    own: dict[str, Iterable[str]] = {"datasets": sources, "teachers": config.teachers, "recipes": config.recipes}
    for number, block in enumerate(values.get("grid", [])):
        for axis, get in axes.items():
            for index, name in enumerate(block.get(axis, [])):
                try:
                    get(name)
                except InputError as problem:
                    mine = "" if "did you mean" in str(problem) else nearest(name, own.get(axis, {}))
                    if axis == "teachers" and name == NO_TEACHER:
                        mine = "; where no train type has a teacher, leave teachers out"
                    raise complaint(("grid", number, axis, index), str(problem).removesuffix(".") + mine) from None
    form = values.get("prototypes", {}).get("form")
    if form is not None:
        with placed(("prototypes", "form"), complaint):
            prototype_forms.get(form)
            if form == config.prototypes.form and shows_images(config):
                prototype_forms.refuse_too_few(form, config.prototypes.per_class)
    asked = {name.lower() for block in config.grid for name in block.datasets} | set(datasets.names())
    for key in ("sources", "class_names"):
        for name in values.get(key, {}):
            if name not in asked:
                raise complaint((key, name), f"no block of the grid has a dataset '{name}'{nearest(name, asked)}")
    for name, given in values.get("class_names", {}).items():
        check_class_names(name, given, sources.get(name), complaint)


def check_recipe(name: str, config: Config) -> None:
    """Raise InputError where a name of the grid is no recipe, or asks for class prototypes that can't be made."""
    found = [recipes.get(one) for one in config.named_recipes(name)]
    if config.prototypes.form is None:
        for recipe in found:
            prototype_forms.refuse_too_few(recipe.prototype_form, config.prototypes.per_class)
    elif "prototype_form=" in name:
        words = f"prototypes.form, '{config.prototypes.form}', replaces that of every recipe: leave out one"
        raise InputError(f"recipe '{name}': {words}")


def check_recipes(values: dict[str, Any], config: Config, complaint: Complaint) -> None:
    """Raise the complaint about a recipe of the user's own whose name, base or values can't be used."""
    for name in values.get("recipes", {}):
        if name in recipes.names():
            raise complaint(("recipes", name), f"'{name}' is the name of a built-in recipe; choose another name")
        with placed(("recipes", name), complaint):
            forms = [recipes.get(one).prototype_form for one in config.named_recipes(name)]
            for form in forms:
                prototype_forms.refuse_too_few(form, config.prototypes.per_class)
        if config.prototypes.form is not None and "prototype_form" in config.recipes[name].values:
            words = f"prototypes.form, '{config.prototypes.form}', replaces that of every recipe: leave out one"
            raise complaint(("recipes", name, "prototype_form"), words)


def check_head(teacher: TeacherSpec, config: Config) -> None:
    """Raise InputError where a teacher's own classifier is asked for on a dataset that no block of the grid has."""
    _, _, dataset = teacher.head.partition("@")
    asked = {name.lower() for block in config.grid for name in block.datasets}
    if dataset and dataset not in asked:
        if isinstance(teacher, teachers.TrainedCNN):
            raise InputError(f"on=: no block of the grid has a dataset '{dataset}': add one, or correct the name")
        raise InputError(f"head: no block of the grid has a dataset '{dataset}'{nearest(dataset, asked)}")


def check_sources(sources: dict[str, str], merged: dict[str, str], data: Path, complaint: Complaint) -> None:
    """Raise the complaint about a source that is a path to nothing, or another folder than its dataset is packed from.

    A dataset that is packed already needs no source.
    """
    for name, source in sources.items():
        if merged[name] != source:
            continue  # a later file names another one
        packed = data / "datasets" / name
        if not (packed / MANIFEST).exists():
            if datasets.is_local(source) and not os.path.exists(path := datasets.path_of(source)):
                words = f"{short(source)} does not exist, and {packed} is not packed yet{written_otherwise(path)}"
                raise complaint(("sources", name), words)
            continue
        with placed(("sources", name), complaint):
            datasets.refuse_other_source(datasets.get(name, source), packed, source)


def shows_images(config: Config) -> bool:
    """Return whether a teacher of the grid has vectors of images: no number of images limits a text tower."""
    named = {config.resolved(name) for block in config.grid for name in block.teachers}
    return any(not one.is_per_class for name in named for one in teachers.get(name).members)


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
