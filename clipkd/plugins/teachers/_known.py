"""Teachers that have a file of their own in this folder."""

from __future__ import annotations

from os.path import expanduser
from pathlib import Path

from clipkd.core.errors import InputError
from clipkd.core.registry import specs
from clipkd.plugins.teachers._cnn import TrainedCNN
from clipkd.plugins.teachers._hub import pinned
from clipkd.plugins.teachers._names import is_folder
from clipkd.plugins.teachers._spec import FILES, Output, TeacherSpec, giving
from clipkd.plugins.teachers._trained import TrainedTeacher

PACKAGE = "clipkd.plugins.teachers"


def names() -> list[str]:
    """Return the names of the teachers that have a file of their own."""
    return list(specs(PACKAGE))


def known(where: str, output: Output | None) -> TeacherSpec | None:
    """Return the teacher with this name or hub id, case ignored; None where no file has it."""
    for spec in specs(PACKAGE).values():
        if where.lower() in {spec.name.lower(), getattr(spec, "hub_id", spec.name).lower()}:
            refuse_two_meanings(where, spec)
            if output == "text" and isinstance(spec, TrainedTeacher | TrainedCNN):
                raise InputError(f"teacher '{spec.name}:text': it is trained here on images and has no text tower")
            return giving(pinned(spec), output or spec.output)
    return None


def refuse_two_meanings(where: str, spec: TeacherSpec) -> None:
    """Raise InputError where a name is that of a known teacher and of a folder here that holds a checkpoint.

    transformers takes the folder; people clone a model under its hub id where there is no internet.
    """
    if not is_folder(where) or not any((Path(expanduser(where)) / name).is_file() for name in FILES):
        return
    names = (spec.name, getattr(spec, "hub_id", ""))
    other = next((name for name in names if name and name.lower() != where.lower() and not is_folder(name)), None)
    known = f"'{other}' for {spec.title}" if other else f"or rename the folder, for {spec.title}"
    raise InputError(f"teacher '{where}' is known here and is a folder too: write './{where}' for the folder, {known}")
