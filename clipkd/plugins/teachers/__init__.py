"""Teachers: one file is one teacher. The metadata here imports no torch.

A teacher comes from the Hugging Face hub at a pinned commit (`HubTeacher`), from a folder that the
user has (`FolderTeacher`), or is trained by the workflow itself (`TrainedTeacher`). All three end
as the same kind of folder, and go through the same strict loader.

Any teacher can be named without a file: `[NAME=]WHERE[:OUTPUT]`, where WHERE is a name known here,
`owner/model@commit` or a folder, and OUTPUT what is taken of it. `A+B` are several teachers at once.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from os.path import expanduser
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from clipkd.core.errors import DataError, InputError, nearest
from clipkd.core.fingerprint import Identity
from clipkd.core.hub import COMMIT, HUB_ID
from clipkd.core.registry import specs

LOCK = Path("config/teachers.lock.json")
"""Commits that `clipkd pin` found for teachers whose file names none."""
SHA256 = re.compile(r"[0-9a-f]{64}")
PROCESSOR, NESTED_PROCESSOR = "preprocessor_config.json", "processor_config.json"
"""Where an image processor's settings are; transformers 5 writes them into the second, where there is a tokenizer."""
FILES = ("config.json", PROCESSOR, "model.safetensors")
"""All that is ever read of a vision encoder's checkpoint; NESTED_PROCESSOR where there is no PROCESSOR."""
TEXT_FILES = ("config.json", "tokenizer.json", "model.safetensors")
"""All that is ever read of a text tower's checkpoint."""
Output = Literal["cls", "mean", "pooler", "text"]
OUTPUTS = get_args(Output)
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True)
class TeacherSpec:
    """What is known of a teacher before its weights are there; None: only the checkpoint tells."""

    name: str
    title: str
    image_size: int | None = None
    patch_size: int | None = None
    hidden_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    """The normalisation that the teacher was trained with, in units of [0, 1]."""
    head_for: str | None = None
    """The dataset whose classes the checkpoint's own classifier has; None: use a linear probe."""
    output: Output = "cls"
    """What is taken of the checkpoint: of an image its class token, the mean of its patch tokens, or the
    pooler's vector; `text`: of class names what the text tower says."""
    checkpoint: str = ""
    """The name that the checkpoint's folder has; "": the teacher's own."""

    @property
    def members(self) -> tuple[TeacherSpec, ...]:
        """The teachers that this one consists of: itself, unless it is several."""
        return (self,)

    @property
    def reads_names(self) -> bool:
        """True where the teacher is shown class names, not images."""
        return self.output == "text"

    @property
    def files(self) -> tuple[str, ...]:
        """Return the files that are read of the checkpoint."""
        return TEXT_FILES if self.reads_names else FILES

    def identity(self) -> Identity:
        """Return what makes the teacher's weights."""
        raise NotImplementedError

    @property
    def available(self) -> str:
        """Return "" or the reason why this teacher can't be used yet, with what to do."""
        return ""


@dataclass(frozen=True)
class HubTeacher(TeacherSpec):
    """A checkpoint on the Hugging Face hub, at a commit."""

    kind: ClassVar[str] = "teacher"
    thing: ClassVar[str] = "model"
    verb: ClassVar[str] = "fetch"
    hub_id: str = ""
    revision: str | None = None
    """Full commit hash."""
    weights_sha256: str | None = None
    """sha256 of model.safetensors, where it is known; checked after the download."""

    def identity(self) -> Identity:
        return {"hub": self.hub_id, "revision": self.revision}

    @property
    def available(self) -> str:
        if self.revision:
            return ""
        return f"teacher '{self.name}' has no pinned commit: run `clipkd pin {self.name}` once, where there is internet"


@dataclass(frozen=True)
class FolderTeacher(TeacherSpec):
    """A checkpoint in a folder that the user has."""

    folder: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of each file."""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(self.digests) or super().files

    def identity(self) -> Identity:
        return {"folder": self.digests}


@dataclass(frozen=True)
class TrainedTeacher(TeacherSpec):
    """A Hugging Face ViT that the workflow trains on a dataset and saves with `save_pretrained`."""

    dataset: str = ""
    layers: int = 0
    heads: int = 0
    epochs: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 0.05
    max_shift: int = 2
    """Random shift in pixels, the training's only augmentation."""
    seed: int = 0
    protocol: int = 1

    def identity(self) -> Identity:
        from clipkd.plugins import datasets

        # What is taken of a teacher does not make its weights.
        others = {"name", "title", "dataset", "output", "checkpoint"}
        training = {key: value for key, value in asdict(self).items() if key not in others}
        return {"trained_on": datasets.get(self.dataset).identity(), "training": training}


@dataclass(frozen=True)
class SeveralTeachers(TeacherSpec):
    """Several teachers at once for one student."""

    several: tuple[TeacherSpec, ...] = ()

    @property
    def members(self) -> tuple[TeacherSpec, ...]:
        return self.several

    @property
    def available(self) -> str:
        return next((member.available for member in self.several if member.available), "")


def names() -> list[str]:
    """Return the names of the teachers that have a file of their own."""
    return list(specs(__name__))


@cache
def lock(path: Path) -> dict[str, Any]:
    """Return the commits of `clipkd pin`, teacher -> {"revision", "weights_sha256"}; DataError where it is damaged."""
    from clipkd.core.artifacts import read_json

    entries = read_json(path) if path.exists() else {}
    if not isinstance(entries, dict):
        raise DataError(f"{path} is damaged: it holds no map of teachers; remove it and pin them again")
    for name, entry in entries.items():
        if not is_pin(entry):
            raise DataError(f"{path}: '{name}' has no commit and sha256; remove its entry and run `clipkd pin {name}`")
    return entries


def is_pin(entry: Any) -> bool:
    """Return whether an entry of the lock file holds a commit, and a sha256 or null."""
    if not isinstance(entry, dict) or not COMMIT.fullmatch(str(entry.get("revision"))):
        return False
    sha256 = entry.get("weights_sha256")
    return sha256 is None or bool(SHA256.fullmatch(str(sha256)))


def get(name: str) -> TeacherSpec:
    """Return the teacher that `name` names: `[NAME=]WHERE[:OUTPUT]`, or several of them joined by `+`.

    Raises:
        InputError: a part is unknown, or a hub id comes without a commit.
    """
    members = split(name)
    if len(members) == 1:
        return get_one(name)
    several = tuple(get_one(member) for member in members)
    keys = [spec.name for spec in several]
    if len(set(keys)) < len(keys):
        raise InputError(f"teacher '{name}' names one teacher twice")
    return SeveralTeachers("+".join(keys), " + ".join(spec.title for spec in several), several=several)


def split(name: str) -> list[str]:
    """Return the names of several teachers, `A+B`, one by one; a folder may have a `+` in its name."""
    parts, members = name.split("+"), []
    while parts:
        lengths = range(len(parts), 1, -1)
        length = next((n for n in lengths if names_folder("+".join(parts[:n]))), 1)
        members.append("+".join(parts[:length]))
        parts = parts[length:]
    return members


def names_folder(name: str) -> bool:
    """Return whether `name` names one folder."""
    _, where, output = parsed(name)
    return output in ("", *OUTPUTS) and is_folder(where)


def parsed(name: str) -> tuple[str, str, str]:
    """Return NAME, WHERE and OUTPUT of `[NAME=]WHERE[:OUTPUT]`, "" where one is left out."""
    if is_folder(name):
        return "", name, ""
    alias, _, rest = name.partition("=") if "=" in name else ("", "", name)
    where, _, output = rest.rpartition(":")
    return (alias, rest, "") if not where or is_folder(rest) else (alias, where, output)


def resolved(name: str, own: dict[str, str]) -> str:
    """Return `name` with each part that the config's `teachers` map names replaced by what the map says."""
    return "+".join(f"{member}={own[member]}" if member in own else member for member in split(name))


def checkpoint_of(name: str) -> str:
    """Return the shortest name of one teacher's checkpoint: the same for all that is taken of its images."""
    _, where, output = parsed(name)
    return f"{where}:text" if output == "text" else where


def get_one(name: str) -> TeacherSpec:
    """Return the teacher that `[NAME=]WHERE[:OUTPUT]` names."""
    alias, where, output = parsed(name)
    if output and output not in OUTPUTS:
        raise InputError(
            f"teacher '{name}': '{output}' is not one of {', '.join(OUTPUTS)}{nearest(output, OUTPUTS)} "
            "(after the colon stands what is taken of the checkpoint)"
        )
    spec = found(where, output or "cls")
    if not alias:
        return spec
    if not NAME.fullmatch(alias):
        raise InputError(f"teacher name '{alias}' in '{name}': use small letters, digits and '-', 63 at most")
    if alias in names():
        raise InputError(f"teacher '{name}': '{alias}' is a teacher already: take another name")
    return replace(spec, name=alias, title=alias, checkpoint=spec.checkpoint or spec.name)


def found(where: str, output: Any) -> TeacherSpec:
    """Return the teacher with this key, hub id, `owner/model@commit` or folder, and output."""
    for spec in specs(__name__).values():
        if where.lower() in {spec.name.lower(), getattr(spec, "hub_id", spec.name).lower()}:
            refuse_two_meanings(where, spec)
            return giving(pinned(spec), output)
    hub_id, _, revision = where.partition("@")
    if HUB_ID.fullmatch(hub_id) and revision:
        if not COMMIT.fullmatch(revision):
            raise InputError(
                f"teacher '{where}': '{revision}' is not a full commit hash (40 hex digits); a branch can move"
            )
        name = f"{slug(hub_id)}-{revision[:8]}"
        return giving(HubTeacher(name=name, title=hub_id, hub_id=hub_id, revision=revision), output)
    if is_folder(where):
        return from_folder(Path(expanduser(where)), output)
    if "/" in where and not HUB_ID.fullmatch(hub_id):
        raise InputError(f"teacher '{where[:200]}': there is no such folder")
    hint = f" A hub model needs its commit: '{where}@<40 hex digits>'." if HUB_ID.fullmatch(where) else ""
    raise InputError(
        f"unknown teacher '{where[:200]}'{nearest(where[:200], names())} (known: {', '.join(names())}).{hint}"
    )


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


def giving(spec: TeacherSpec, output: Output) -> TeacherSpec:
    """Return a teacher of which something else than the class token is taken; its checkpoint stays the same."""
    if output == spec.output:
        return spec
    if output == "text" and isinstance(spec, TrainedTeacher):
        raise InputError(f"teacher '{spec.name}:text': it is trained here on images and has no text tower")
    # The files of the two towers differ, so that they are two checkpoints.
    checkpoint = f"{spec.name}-text" if output == "text" else spec.name
    title = f"{spec.title} ({output})"
    return replace(spec, name=f"{spec.name}-{output}", title=title, output=output, checkpoint=checkpoint)


def is_folder(name: str) -> bool:
    """Return whether a name is that of a folder; one that no path can have is none."""
    try:
        return Path(expanduser(name)).is_dir()
    except (OSError, ValueError):
        return False


def pinned(spec: Any) -> TeacherSpec:
    """Return `spec` with the commit of the lock file, where its own file names none."""
    entry = lock(LOCK).get(spec.name)
    if isinstance(spec, HubTeacher) and spec.revision is None and entry:
        return replace(spec, revision=entry["revision"], weights_sha256=entry["weights_sha256"])
    return spec


def from_folder(folder: Path, output: Output) -> TeacherSpec:
    """Return the teacher in `folder`, named after the folder and its weights."""
    files = files_in(folder, output)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no teacher checkpoint: it lacks {', '.join(missing)}")
    stamps = tuple((stat.st_size, stat.st_mtime_ns) for stat in ((folder / name).stat() for name in files))
    digests = hashed(folder.resolve(), files, stamps)
    name = f"{slug(folder.resolve().name)}-{digests['model.safetensors'][:8]}"
    return giving(FolderTeacher(name=name, title=folder.name, folder=str(folder), digests=digests), output)


def files_in(folder: Path, output: Output) -> tuple[str, ...]:
    """Return the files that are read of the checkpoint in a folder, there or not.

    Raises:
        InputError: two files describe its image processor, and not the same.
    """
    if output == "text":
        return TEXT_FILES
    nested = nested_processor(folder / NESTED_PROCESSOR)
    if nested is None:
        return FILES
    if (folder / PROCESSOR).is_file():
        from clipkd.core.artifacts import read_json

        other = read_json(folder / PROCESSOR)
        differ = sorted(key for key in nested.keys() & other.keys() if nested[key] != other[key])
        if differ:
            raise InputError(
                f"{folder}: {PROCESSOR} and {NESTED_PROCESSOR} have another {', '.join(differ)}; remove the one that "
                "is not the checkpoint's"
            )
        return FILES
    return tuple(NESTED_PROCESSOR if name == PROCESSOR else name for name in FILES)


def nested_processor(path: Path) -> dict[str, Any] | None:
    """Return the image processor's settings in a processor_config.json; None where it has none."""
    from clipkd.core.artifacts import read_json

    values = read_json(path) if path.is_file() else None
    nested = values.get("image_processor") if isinstance(values, dict) else None
    return nested if isinstance(nested, dict) else None


@cache
def hashed(folder: Path, files: tuple[str, ...], stamps: tuple) -> dict[str, str]:
    """Return the sha256 of each of a checkpoint's files, computed once per process while `stamps` stay the same."""
    from clipkd.core.artifacts import sha256

    return {name: sha256(folder / name) for name in files}


def slug(text: str) -> str:
    """Return `text` as a name that may stand in a path."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80].rstrip("-") or "teacher"
