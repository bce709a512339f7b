"""Files: written whole or not at all, aside, synced and renamed; names, sha256; JSON in the one form written here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from clipkd.core import lfs
from clipkd.core.disk import room_for
from clipkd.core.errors import DataError

MOST_JSON_BYTES = 64 << 20


def printable(path: Path | str) -> str:
    """Return a path as text that any terminal takes: bytes that aren't UTF-8 as escapes."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def sha256(path: Path) -> str:
    """Return the sha256 of a file, 64 hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """Return the sha256 of a file, computed once per process while the file stays the same."""
    found = path.stat()
    return sha256_of(path.resolve(), (found.st_size, found.st_mtime_ns))


@cache
def sha256_of(path: Path, stamps: tuple[int, int]) -> str:
    """Return the sha256 of a file as it is at these size and time."""
    return sha256(path)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def default_mode(is_folder: bool) -> int:
    """Return the permissions that the user's umask gives, but never that of writing to everyone.

    (Temporary files are made private.)
    """
    mask = os.umask(0o077)
    os.umask(mask)
    return (0o777 if is_folder else 0o666) & ~mask & ~0o002


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError name `path`, which the user knows, and no temporary file beside it."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success it is synced and takes `path`'s place.

    Raises:
        MachineError: the disk is full; names `path`.
    """
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
        aside = Path(name)
        try:
            yield aside
            os.chmod(aside, default_mode(is_folder=False))
            sync(aside)
            os.replace(aside, path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def json_text(data: Any) -> str:
    """Return data as JSON in the one form that is written here: sorted keys, no NaN, one trailing newline."""
    return json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"


def is_json_text(text: str, data: Any) -> bool:
    """Return whether a text is `json_text(data)`, line breaks and indentation aside.

    An indented text takes json ten times as long to write as one without, which it does in C.
    """
    joined = "".join(line.lstrip(" ") for line in text.split("\n"))
    return text.endswith("}\n") and joined == json.dumps(data, sort_keys=True, separators=(",", ": "))


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json_text(data))


def read_json(path: Path, is_strict: bool = True) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        is_strict: refuse numbers that are not finite here; False: leave that to the reader of the fields.

    Raises:
        DataError: it is missing, is too large, is not JSON, or holds a key twice or a number that is not finite.
    """
    return read_json_and_text(path, is_strict)[0]


def read_json_and_text(path: Path, is_strict: bool = True) -> tuple[Any, str]:
    """Read a JSON file; return its data and its text. Arguments and errors as of `read_json`."""
    number = finite if is_strict else float
    try:
        with open(path, "rb") as stream:
            content = stream.read(MOST_JSON_BYTES + 1)
        if len(content) > MOST_JSON_BYTES:
            raise DataError(f"{path} is damaged: larger than {MOST_JSON_BYTES} bytes")
        text = content.decode()
        return json.loads(text, object_pairs_hook=once, parse_float=number, parse_constant=number), text
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise DataError(f"{path} is damaged: not JSON ({error}){lfs.instead(path)}") from None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's pairs as a dict; raise ValueError if a key is duplicate."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate key")
    return found


def finite(text: str) -> float:
    """Parse a number; raise ValueError where it is NaN or infinite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
