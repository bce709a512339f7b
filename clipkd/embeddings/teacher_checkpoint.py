"""Teacher checkpoints: fetched at a pinned commit, checked, and put in place as an artefact.

Three files are read of a checkpoint, none of them able to run code: two JSON files (of a text tower one is its
tokenizer) and safetensors.
Downloads go through the user's own Hugging Face cache (HF_HOME, HF_ENDPOINT, HF_TOKEN count), so what
is there already is not downloaded twice; they are copied from it, and nothing later needs the network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipkd.core import shards
from clipkd.core.artifacts import MANIFEST, Artifact, building, open_artifact
from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.files import read_json, sha256, write_json
from clipkd.core.hub import COMMIT
from clipkd.core.hub_client import CONVERT, ETAG_TIMEOUT, WEIGHTS, MissingFile, hub_errors, verified_file
from clipkd.core.progress import say
from clipkd.core.registry import specs
from clipkd.embeddings.checkpoint_settings import check_settings, refuse_settings
from clipkd.embeddings.weights import check_weights
from clipkd.plugins import teachers
from clipkd.plugins.teachers import (
    NESTED_PROCESSOR,
    PROCESSOR,
    FolderTeacher,
    HubTeacher,
    LibraryTeacher,
    TeacherSpec,
    nested_processor,
    refuse_nameless,
)


def fetch(
    teacher: TeacherSpec,
    folder: Path,
    accept: Callable[[Artifact], None] | None = None,
    check_config: Callable[[dict[str, Any]], None] | None = None,
) -> Artifact:
    """Bring a teacher's checkpoint into `folder`, unless it is there, and open it.

    Args:
        teacher: whose.
        folder: the artefact's.
        accept: is shown the checkpoint before it is put in place; what it raises refuses it.
        check_config: is shown the checkpoint's config.json, a hub's before its weights are downloaded, likewise.

    Raises:
        InputError: the repository is unknown, gated, or without safetensors; the teacher has no pinned
            commit, or brings code of its own, or is trained here and not fetched; the model is not supported.
        DataError: the weights are not the known ones, are damaged, or hold a value that is not finite.
        MachineError: no network; says what to run where there is one.
    """
    if (folder / MANIFEST).exists():
        try:
            return open_artifact(folder, "teacher", teacher.identity())
        except DataError as error:
            say(f"{error}\n{teacher.title}: fetching it again")
    if teacher.available:
        raise InputError(teacher.available)
    if isinstance(teacher, HubTeacher):
        source, files = "hub", from_hub(teacher, check_config)
    elif isinstance(teacher, FolderTeacher):
        source, files = "folder", from_folder(teacher)
    elif isinstance(teacher, LibraryTeacher):
        source, files = "file", {}
    else:
        raise InputError(f"teacher '{teacher.name}' is trained here, not fetched; the workflow does it")
    try:
        with building(folder, "teacher", teacher.identity()) as draft:
            write(teacher, files, draft.path)
            if check_config is not None and not isinstance(teacher, HubTeacher):
                check_config(read_json(draft.path / "config.json"))
            names = [path.name for path in draft.path.iterdir()]
            with naming_source(teacher, draft.path):
                for name in set(names) - {WEIGHTS}:
                    refuse_settings(teacher, draft.path / name)
                draft.facts |= {"source": source, "parameters": check_weights(teacher, draft.path / WEIGHTS)}
                if accept is not None:
                    accept(Artifact(draft.path, {"files": {name: {} for name in names}, "facts": {}}))
    except OSError as error:
        raise MachineError(f"teacher '{teacher.name}': can't write {folder}: {error.strerror or error}") from error
    return open_artifact(folder, "teacher", teacher.identity())


@contextmanager
def naming_source(teacher: TeacherSpec, folder: Path) -> Iterator[None]:
    """Have messages name where a checkpoint comes from, and not the folder in which it is built."""
    try:
        yield
    except (DataError, InputError) as error:
        said = str(error)
        if isinstance(teacher, LibraryTeacher):
            said = said.replace(str(folder / WEIGHTS), teacher.weights)
        origin = teacher.folder if isinstance(teacher, FolderTeacher) else f"teacher '{teacher.name}'"
        raise type(error)(said.replace(str(folder), origin)) from None


def write(teacher: TeacherSpec, files: dict[str, Path], folder: Path) -> None:
    """Write a checkpoint's files into `folder`, shards joined."""
    if isinstance(teacher, LibraryTeacher):
        from clipkd.embeddings import library_checkpoint

        library_checkpoint.write(teacher, folder)
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    if isinstance(teacher, FolderTeacher):
        check_digests(teacher, folder)
    if shards.INDEX in files:
        index = folder / shards.INDEX
        parts = {name: folder / name for name in shards.names(index)}
        try:
            shards.join(index, parts, folder / WEIGHTS)
        except DataError as error:
            raise DataError(f"teacher '{teacher.name}': {error}") from None
        for path in (index, *parts.values()):
            path.unlink()


def from_folder(teacher: FolderTeacher) -> dict[str, Path]:
    """Return where a local checkpoint's files are."""
    files = {name: Path(teacher.folder) / name for name in teacher.files}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"teacher '{teacher.name}': {path} is gone")
    return files


def check_digests(teacher: FolderTeacher, folder: Path) -> None:
    """Raise DataError where a copied file is not the one that the teacher stands for."""
    for name in teacher.files:
        found = sha256(folder / name)
        if found != teacher.digests[name]:
            raise DataError(
                f"{Path(teacher.folder) / name} has changed: sha256 expected {teacher.digests[name]}, actual {found}"
            )


def from_hub(teacher: HubTeacher, check_config: Callable[[dict[str, Any]], None] | None) -> dict[str, Path]:
    """Return where the files of a hub checkpoint are in the Hugging Face cache, downloaded where they are not.

    The small files come first and are checked: what can't work is refused before its weights are downloaded.
    """
    say(f"{teacher.title}: fetching {teacher.hub_id} at {teacher.revision}")
    files = {"config.json": settings_file(teacher, "config.json")}
    config = read_json(files["config.json"])
    refuse_nameless(config, f"teacher '{teacher.name}': its config.json")

    def processor() -> Path:
        path = processor_of(teacher)
        refuse_settings(teacher, path)
        files[path.name] = path
        return path

    check_settings(teacher, config, processor)
    if teacher.reads_names:
        files["tokenizer.json"] = settings_file(teacher, "tokenizer.json")
    if check_config is not None:
        check_config(config)
    return files | weights_of(teacher)


def settings_file(teacher: HubTeacher, name: str) -> Path:
    """Return a small file of a hub checkpoint, which asks for no code."""
    path = verified_file(teacher, name)
    refuse_settings(teacher, path)
    return path


def weights_of(teacher: HubTeacher) -> dict[str, Path]:
    """Return the file with a hub checkpoint's weights; where there is none, its index and its shards."""
    path = either_file(teacher, WEIGHTS, shards.INDEX)
    parts = shards.names(path) if path.name == shards.INDEX else ()
    return {path.name: path} | {name: verified_file(teacher, name) for name in parts}


def processor_of(teacher: HubTeacher) -> Path:
    """Return the file with the image processor's settings: where the first name is not there, the second."""
    path = either_file(teacher, PROCESSOR, NESTED_PROCESSOR)
    if path.name == NESTED_PROCESSOR and nested_processor(path) is None:
        raise InputError(
            f"teacher '{teacher.name}': {teacher.hub_id} has no {PROCESSOR} at {teacher.revision}, and its "
            f"{NESTED_PROCESSOR} no image_processor"
        )
    return path


def either_file(teacher: HubTeacher, name: str, other: str) -> Path:
    """Return one of two files of a hub checkpoint, the first where it is there; with neither, the first is missing."""
    try:
        return verified_file(teacher, name)
    except MissingFile as missing:
        try:
            return verified_file(teacher, other)
        except MissingFile:
            raise missing from None


def pin(teacher_name: str) -> dict[str, Any]:
    """Ask the hub for the commit of a teacher's `main`, and write it into the lock file.

    Returns:
        {"revision": commit, "weights_sha256": sha256 of model.safetensors, or None where the hub keeps none}.

    Raises:
        InputError: the teacher is no hub teacher, is pinned in its own file, or has no safetensors at `main`.
        MachineError: the hub is out of reach.
    """
    from huggingface_hub import HfApi

    teacher = pinnable(teacher_name)
    with hub_errors(teacher, "the current commit", verb="pin"):
        hub = HfApi(library_name="clipkd")
        info = hub.model_info(teacher.hub_id, revision="main", files_metadata=True, timeout=ETAG_TIMEOUT)
    files = {file.rfilename: file for file in info.siblings or []}
    if WEIGHTS not in files and shards.INDEX not in files:
        raise InputError(f"teacher '{teacher.name}': {teacher.hub_id} has no {WEIGHTS} at main ({info.sha}). {CONVERT}")
    if info.sha is None or not COMMIT.fullmatch(info.sha):
        raise DataError(f"the hub gives no commit for {teacher.hub_id}: {info.sha!r}")
    large = files[WEIGHTS].lfs if WEIGHTS in files else None
    entry = {"revision": info.sha, "weights_sha256": large.sha256 if large else None}
    locked = read_json(teachers.LOCK) if teachers.LOCK.exists() else {}
    write_json(teachers.LOCK, locked | {teacher.name: entry})
    teachers.lock.cache_clear()
    return entry


def pinnable(name: str) -> HubTeacher:
    """Return the hub teacher `name`, whose commit is not in its own file."""
    known = {spec.name.lower(): spec for spec in specs(teachers.__name__).values()}
    known |= {spec.hub_id.lower(): spec for spec in known.values() if isinstance(spec, HubTeacher)}
    teacher = known.get(name.lower()) or teachers.get(name)
    if not isinstance(teacher, HubTeacher):
        raise InputError(f"teacher '{name}' does not come from the Hugging Face hub: there is nothing to pin")
    if teacher.revision:
        raise InputError(f"teacher '{teacher.name}' is pinned already, where it is named: commit {teacher.revision}")
    return teacher
