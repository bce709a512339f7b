"""CIFAR-10 and CIFAR-100: 32x32 images, read from their official binary archives.

A record is `label_bytes` labels of one byte each, the last one the class, and 3,072 bytes of pixels:
the red, green and blue plane of 32 rows of 32 pixels (https://www.cs.toronto.edu/~kriz/cifar.html).
Nothing is extracted to disk and nothing is unpickled: only the named members are read from the stream.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.fingerprint import Identity
from clipkd.plugins.datasets import CLIP_MEAN, CLIP_STD, Augmentation, DatasetSpec, Reading, Split

BASE_URL = "https://www.cs.toronto.edu/~kriz"
SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE
MAX_NAME_BYTES = 1 << 16
MAX_MEMBERS = 1000
"""The official archives have at most nine; each skipped member costs memory."""


@dataclass(frozen=True, kw_only=True)
class Cifar(DatasetSpec):
    """A CIFAR archive: its checksum, its members, and the length of a record's label."""

    image_size: int | None = 32
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    augmentation: Augmentation = "flip"
    validation_fraction: float = 0.1
    archive: str
    md5: str
    """As published beside the archive."""
    archive_bytes: int
    train_members: tuple[str, ...]
    test_member: str
    names_member: str
    label_bytes: int
    train_records: int = 50_000
    test_records: int = 10_000

    def source_identity(self) -> Identity:
        return {"archive": self.archive, "md5": self.md5}

    @property
    def counts(self) -> tuple[int, int]:
        return self.train_records, round(self.validation_fraction * self.train_records)

    def read(self, source: str | None, downloads: Path) -> Reading:
        return read(self, find_archive(self, source or BASE_URL, downloads))


def read(spec: Cifar, archive: Path) -> Reading:
    """Read the archive of a CIFAR dataset.

    Raises:
        MachineError: it can't be read.
        DataError: it is not the official one, or a member is not what it must be; names both.
    """
    try:
        with archive.open("rb") as stream:
            check(spec, archive, hashlib.file_digest(stream, md5).hexdigest())
            stream.seek(0)
            # The bytes are hashed again as they are used: the file may change between two readings.
            hashed = HashedStream(stream)
            members = read_members(spec, archive, hashed)
            check(spec, archive, hashed.hexdigest())
    except OSError as error:
        raise MachineError(f"{archive} can't be read: {error.strerror or error}") from error
    names = class_names(spec, archive, members.pop(spec.names_member))
    tables = {member: records(spec, archive, member, data) for member, data in members.items()}
    train, test = split(spec, tables, spec.train_members), split(spec, tables, (spec.test_member,))
    return Reading(names, train, test)


def md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def check(spec: Cifar, archive: Path, found: str) -> None:
    """Raise DataError unless an archive's md5 is the published one."""
    if found != spec.md5:
        raise DataError(f"{archive} is not {spec.title}'s archive: md5 expected {spec.md5}, actual {found}")


class HashedStream:
    """A stream that hashes what is read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.hash = stream, md5()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.hash.update(data)
        return data

    def hexdigest(self) -> str:
        """Return the md5 of the whole stream, what nobody has asked for included."""
        while self.read(1 << 20):
            pass
        return self.hash.hexdigest()


def find_archive(spec: Cifar, source: str, downloads: Path) -> Path:
    """Return the path of the archive; if `source` is a URL, it is downloaded.

    Raises:
        InputError: `source` is not a base URL, an archive, or a folder that holds one.
        MachineError: the URL can't be reached.
    """
    if source.startswith(("http://", "https://")):
        from clipkd.core.download import Checksum, download

        offline = (
            f"Without internet here: fetch {spec.archive} elsewhere, then `clipkd download {spec.name} "
            f"--dataset-source FILE`, or sources: {{{spec.name}: FILE}} in the config"
        )
        url = f"{source.rstrip('/')}/{spec.archive}"
        return download(url, downloads / spec.archive, Checksum("md5", spec.md5, spec.archive_bytes), offline)
    path = Path(expanduser(source))
    if path.is_file():
        return path
    if (path / spec.archive).is_file():
        return path / spec.archive
    what = f"a folder without {spec.archive}" if path.is_dir() else "neither a file nor a folder"
    raise InputError(
        f"source of dataset '{spec.name}': {source} is {what}; give a base URL (http:// or https://), "
        f"{spec.archive}, or the folder that holds it"
    )


def wanted_bytes(spec: Cifar) -> dict[str, int]:
    """Return the exact size of each member that holds records."""
    record = spec.label_bytes + PIXEL_BYTES
    each = spec.train_records // len(spec.train_members)
    return {**dict.fromkeys(spec.train_members, each * record), spec.test_member: spec.test_records * record}


def read_members(spec: Cifar, archive: Path, stream: HashedStream) -> dict[str, bytes]:
    """Return the wanted members' bytes; sizes are checked before anything is read."""
    sizes = wanted_bytes(spec)
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|gz") as tar:
            for number, member in enumerate(tar):
                if number == MAX_MEMBERS:
                    raise DataError(f"{archive} is not the archive of {spec.title}: more than {MAX_MEMBERS} members")
                if member.name not in sizes and member.name != spec.names_member:
                    continue
                where = f"{archive}: member '{member.name}'"
                if not member.isreg():
                    raise DataError(f"{where} is not a regular file")
                if member.name in found:
                    raise DataError(f"{where} appears twice")
                if member.size != sizes.get(member.name, member.size):
                    record = spec.label_bytes + PIXEL_BYTES
                    raise DataError(
                        f"{where} has {member.size} bytes, not {sizes[member.name]}: "
                        f"{member.size / record:g} records of {record} bytes, not {sizes[member.name] // record}"
                    )
                if member.name == spec.names_member and member.size > MAX_NAME_BYTES:
                    raise DataError(f"{where} has {member.size} bytes: too many for a list of class names")
                content = tar.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is damaged: {error}") from None
    missing = [name for name in (*sizes, spec.names_member) if name not in found]
    if missing:
        raise DataError(f"{archive} has no member '{missing[0]}'" + (f", nor {missing[1:]}" if missing[1:] else ""))
    return found


def class_names(spec: Cifar, archive: Path, data: bytes) -> list[str]:
    """Return the class names, one on each line that is not empty."""
    try:
        names = [line.strip() for line in data.decode("ascii").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{archive}: member '{spec.names_member}' is not plain text") from None
    if len(names) != spec.classes:
        raise DataError(f"{archive}: member '{spec.names_member}' names {len(names)} classes, not {spec.classes}")
    return names


def records(spec: Cifar, archive: Path, member: str, data: bytes) -> np.ndarray:
    """Return a member's records, uint8 [N, label_bytes + 3072], labels checked."""
    table = np.frombuffer(data, dtype=np.uint8).reshape(-1, spec.label_bytes + PIXEL_BYTES)
    labels = table[:, spec.label_bytes - 1]
    wrong = np.flatnonzero(labels >= (spec.classes or 0))
    if len(wrong):
        raise DataError(
            f"{archive}: member '{member}': record {wrong[0]} has the label {labels[wrong[0]]}; "
            f"there are {spec.classes} classes, numbered from 0"
        )
    return table


def split(spec: Cifar, tables: dict[str, np.ndarray], members: tuple[str, ...]) -> Split:
    """Return the members' records as a split: planes become pixels [H, W, 3]."""
    table = np.concatenate([tables[member] for member in members])
    planes = table[:, spec.label_bytes :].reshape(-1, 3, SIDE, SIDE)
    return Split(table[:, spec.label_bytes - 1].astype(np.int64), planes.transpose(0, 2, 3, 1))
