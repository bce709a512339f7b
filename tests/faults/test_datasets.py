"""Rows D05 and X02: archives that are damaged, crafted, or changed behind our back."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import re
import resource
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipkd.core.errors import DataError
from clipkd.plugins import datasets
from clipkd.plugins.datasets import cifar
from clipkd.plugins.datasets.cifar import Cifar
from tests.data.servers import Member, small_cifar, tar_gz, untar
from tests.faults.checks import amount, fault, nothing, replaced
from tests.faults.processes import REFUSED, outcome

SMALL = small_cifar(datasets.get("cifar10"), per_batch=20, test=20)


def trusted(archive: bytes) -> Cifar:
    """Return a spec that takes this very archive for the official one: only its contents can still be refused."""
    return replace(SMALL.spec, md5=hashlib.md5(archive).hexdigest())


def read(archive: bytes, folder: Path, spec: Cifar | None = None) -> Any:
    path = folder / SMALL.spec.archive
    path.write_bytes(archive)
    return (spec or SMALL.spec).read(str(path), folder / "downloads")


def members_of(found: Any) -> bytes:
    return found.train.images.tobytes() + found.test.images.tobytes() + found.train.labels.tobytes()


WHOLE = untar(SMALL.archive)
BATCH = SMALL.spec.train_members[0]


def with_member(name: str, data: bytes) -> list[Member]:
    return [(member, data if member == name else content) for member, content in WHOLE]


def labelled(value: int) -> bytes:
    data = bytearray(dict(WHOLE)[BATCH])
    data[3 * 3073] = value
    return bytes(data)


NAMES = SMALL.spec.names_member
CRAFTED: dict[str, tuple[list[Member], str]] = {
    "missing": ([pair for pair in WHOLE if pair[0] != BATCH], f"no member '{BATCH}'"),
    "a record too few": (with_member(BATCH, dict(WHOLE)[BATCH][:-3073]), f"'{BATCH}'.* 19 records .*not 20"),
    "a record too many": (with_member(BATCH, dict(WHOLE)[BATCH] + bytes(3073)), f"'{BATCH}'.* 21 records .*not 20"),
    "half a record": (with_member(BATCH, dict(WHOLE)[BATCH][:-9]), f"'{BATCH}' has 61451 bytes, not 61460"),
    "empty": (with_member(BATCH, b""), f"'{BATCH}'"),
    "twice": ([*WHOLE, (BATCH, dict(WHOLE)[BATCH])], f"'{BATCH}' appears twice"),
    "label 10": (with_member(BATCH, labelled(10)), f"'{BATCH}': record 3 has the label 10"),
    "label 255": (with_member(BATCH, labelled(255)), f"'{BATCH}': record 3 has the label 255"),
    "nine names": (with_member(NAMES, b"a\nb\nc\nd\ne\nf\ng\nh\ni\n"), f"'{NAMES}' names 9 classes, not 10"),
    "names that are no text": (with_member(NAMES, b"\xff\xfe" * 10), f"'{NAMES}' is not plain text"),
    "a megabyte of names": (with_member(NAMES, b"a\n" * 500_000), f"'{NAMES}'.*too many"),
}


class AnySize(dict):
    """The mutant: the wanted members, of any size."""

    def get(self, name: str, default: Any = None) -> Any:
        return default


def any_size(spec: Cifar) -> AnySize:
    return AnySize.fromkeys([*spec.train_members, spec.test_member], 0)


@fault(
    "D05",
    **{
        "the-sizes": replaced("clipkd.plugins.datasets.cifar.wanted_bytes", any_size),
        "the-labels": replaced("clipkd.plugins.datasets.cifar.np.flatnonzero", lambda found: []),
    },
)
def test_a_wrong_member_is_named(tmp_path: Path) -> None:
    for name, (members, named) in CRAFTED.items():
        archive = tar_gz(members)
        try:
            read(archive, tmp_path, trusted(archive))
        except DataError as error:
            message = str(error)
        except ValueError:  # numpy's, where a size was not checked
            pytest.fail(f"a traceback: {name}")
        else:
            pytest.fail(f"taken: {name}")
        assert re.search(named, message), (name, message)


@fault("D05", **{"the-md5": replaced("clipkd.plugins.datasets.cifar.check", nothing)})
def test_every_flip_and_truncation_of_an_archive_is_found(tmp_path: Path, record_property: Any) -> None:
    draw, flips, cuts = random.Random(0), amount(40, 1000), amount(10, 200)
    wanted = members_of(read(SMALL.archive, tmp_path))
    for number in range(flips + cuts):
        damaged = bytearray(SMALL.archive)
        if number < flips:
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(damaged)) :]
        with pytest.raises(DataError, match=SMALL.spec.archive):
            read(bytes(damaged), tmp_path)
    assert members_of(read(SMALL.archive, tmp_path)) == wanted
    record_property("flips", flips)
    record_property("truncations", cuts)


def checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar.HashedStream, "hexdigest", lambda self: SMALL.spec.md5)


@fault("D05", "X03", **{"the-second-hash": checked_once})
def test_an_archive_that_changes_after_its_check_is_not_taken(tmp_path: Path) -> None:
    """A stand-in for a race: the file is rewritten in place between the check of its hash and its reading."""
    path, other = tmp_path / SMALL.spec.archive, bytearray(SMALL.archive)
    images = dict(WHOLE)[BATCH]
    other = bytearray(tar_gz(with_member(BATCH, images[:100] + bytes([images[100] ^ 1]) + images[101:])))
    path.write_bytes(SMALL.archive)
    real, checks = cifar.check, iter(range(9))

    def check(spec: Cifar, archive: Path, found: str) -> None:
        real(spec, archive, found)
        if next(checks) == 0:
            with path.open("r+b") as stream:
                stream.write(other)
                stream.truncate()

    patch = pytest.MonkeyPatch()
    patch.setattr(cifar, "check", check)
    try:
        found = cifar.read(SMALL.spec, path)
    except DataError:
        return
    finally:
        patch.undo()
    assert members_of(found) == members_of(read(SMALL.archive, tmp_path)), "other bytes than were checked"


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    found = tarfile.TarInfo(name)
    found.type, found.size = kind, len(data)
    for key, value in more.items():
        setattr(found, key, value)
    return found, data


def archive_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a whole archive with some entries of a malicious kind before its own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
        for name, data in WHOLE:
            tar.addfile(*(lambda pair: (pair[0], io.BytesIO(pair[1])))(entry(name, data=data)))
    return buffer.getvalue()


def tars(outside: Path) -> dict[str, bytes]:
    """Return archives that try to write, link or bring in what they should not."""
    link, hard = tarfile.SYMTYPE, tarfile.LNKTYPE
    return {
        "dots": archive_of(entry("../../escaped", data=b"x")),
        "dots within": archive_of(entry("cifar-10-batches-bin/../../escaped", data=b"x")),
        "absolute": archive_of(entry(str(outside / "escaped"), data=b"x")),
        "symbolic link out": archive_of(entry("l", link, linkname=str(outside)), entry("l/escaped", data=b"x")),
        "symbolic link to a file": archive_of(entry("l", link, linkname="/etc/passwd")),
        "hard link out": archive_of(entry("h", hard, linkname=str(outside / "victim"))),
        "hard link, then content": archive_of(entry("h", hard, linkname="../victim"), entry("h", data=b"x")),
        "device": archive_of(entry("d", tarfile.CHRTYPE, devmajor=1, devminor=3)),
        "block device": archive_of(entry("d", tarfile.BLKTYPE, devmajor=8)),
        "pipe": archive_of(entry("p", tarfile.FIFOTYPE)),
        "setuid": archive_of(entry("s", data=b"#!/bin/sh\n", mode=0o4755)),
        "absolute folder": archive_of(entry(str(outside / "made"), tarfile.DIRTYPE)),
        "a name of 5,000 letters": archive_of(entry("n" * 5000, data=b"x")),
        "a name with a newline": archive_of(entry("a\nb", data=b"x")),
        "an empty name": archive_of(entry("", data=b"x")),
    }


def stand_ins() -> dict[str, bytes]:
    """Return archives in which a wanted member is not a regular file."""
    found = {}
    for name, kind in (("symbolic", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("device", tarfile.CHRTYPE)):
        found[f"member is a {name} link or device"] = archive_of(entry(BATCH, kind, linkname="/etc/passwd"))
    found["member is a folder"] = archive_of(entry(BATCH, tarfile.DIRTYPE))
    return found


def extracting(spec: Cifar, archive: Path, stream: Any) -> dict[str, bytes]:
    """The mutant: unpack everything, as most do."""
    with tarfile.open(archive) as tar:
        tar.extractall(archive.parent / "unpacked", filter="fully_trusted")
    return {name: dict(WHOLE)[name] for name in (*cifar.wanted_bytes(spec), spec.names_member)}


@fault("X02", **{"reading-in-place": replaced("clipkd.plugins.datasets.cifar.read_members", extracting)})
def test_a_malicious_archive_writes_nothing(tmp_path: Path, record_property: Any) -> None:
    """Only the named regular members are read; whatever else is in there is not even looked at."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_bytes(b"mine")
    home = tmp_path / "home"
    home.mkdir()
    crafted = tars(outside) | stand_ins()
    for name, archive in crafted.items():
        try:
            found = read(archive, home, trusted(archive))
        except DataError as error:
            assert SMALL.spec.archive in str(error), name
        except Exception:
            found = None  # the mutant's extractall may refuse too
        else:
            assert members_of(found) == members_of(read(SMALL.archive, home)), name
        there = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
        assert there == ["home", f"home/{SMALL.spec.archive}", "outside", "outside/victim"], name
        assert (outside / "victim").read_bytes() == b"mine", name
    record_property("malicious archives", len(crafted))


@fault("X02", **{"the-sizes": replaced("clipkd.plugins.datasets.cifar.wanted_bytes", any_size)})
def test_a_bomb_stays_small(tmp_path: Path) -> None:
    """A member that unpacks to very many zeros, and very many members: an error, in little memory, and no file."""
    size = amount(200, 500) << 20
    header = tarfile.TarInfo(BATCH)
    header.size = size
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = packer.compress(header.tobuf()) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20))
    bomb += packer.flush()
    many = gzip.compress(b"".join(tarfile.TarInfo(f"m{number}").tobuf() for number in range(amount(20_000, 10**6))), 1)

    def little_memory() -> None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + (150 << 20), resource.RLIM_INFINITY))

    for archive in (bomb, many):
        code = outcome(lambda archive=archive: read(archive, tmp_path, trusted(archive)), little_memory)  # type: ignore[misc]
        assert code == REFUSED
    assert [path.name for path in tmp_path.iterdir()] == [SMALL.spec.archive]


@fault("D05", "X02", **{"our-errors": replaced("clipkd.plugins.datasets.cifar.zlib.error", KeyboardInterrupt)})
def test_fuzzed_archives(tmp_path: Path, record_property: Any) -> None:
    """Damage within an archive whose md5 is then taken for the official one: the reader itself must hold."""
    draw, tries, taken = random.Random(1), amount(60, 1000), 0
    plain = gzip.decompress(SMALL.archive)
    for number in range(tries):
        data = bytearray(plain if number % 2 else SMALL.archive)
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(data)) if draw.random() < 0.5 else 512 * draw.randrange(len(data) // 512)
            data[place : place + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
        archive = gzip.compress(bytes(data), 1) if number % 2 else bytes(data)
        try:
            found = read(archive, tmp_path, trusted(archive))
        except DataError:
            continue
        except Exception as error:
            pytest.fail(f"a traceback: {error!r}")
        taken += 1
        assert found.train.images.shape == (100, 32, 32, 3)
        assert found.train.labels.max() < 10
    record_property("fuzzed archives", tries)
    record_property("of them readable", taken)
