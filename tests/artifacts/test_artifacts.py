"""Artefacts are whole or absent, and are never taken for something else (killed writers, races: tests/faults)."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipkd.core import artifacts
from clipkd.core.artifacts import MANIFEST, building, open_artifact
from clipkd.core.errors import DataError, MachineError
from clipkd.core.files import read_json, write_json, written_aside
from clipkd.core.fingerprint import differences, digest, fingerprint

IDENTITY = {"made": "by a test", "numbers": [1, 2]}


def arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {"first": draw.random((64, 16), dtype=np.float32), "second": draw.integers(0, 9, 500)}


def build(folder: Path, identity: dict[str, Any] = IDENTITY) -> None:
    with building(folder, "toy", identity) as draft:
        for name, array in arrays().items():
            np.save(draft.path / f"{name}.npy", array)
        draft.facts["rows"] = 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "store" / "toy"
    build(path)
    return path


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    with pytest.raises(DataError) as caught:
        yield
    assert [part for part in parts if part not in str(caught.value)] == [], str(caught.value)


def test_an_artefact_is_what_was_put_in(folder: Path) -> None:
    artefact = open_artifact(folder, "toy", IDENTITY)
    for name, array in arrays().items():
        np.testing.assert_array_equal(artefact.array(name), array)
        assert not artefact.array(name).flags.writeable
    assert artefact.identity == IDENTITY
    assert artefact.facts == {"rows": 64}
    assert artefact.manifest["fingerprint"] == fingerprint(IDENTITY)
    assert artefact.manifest["files"]["first.npy"]["shape"] == [64, 16]
    assert artefact.manifest["files"]["first.npy"]["dtype"] == "float32"
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


@pytest.mark.parametrize("shape", [(0,), (0, 3), ()])
def test_arrays_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    with building(tmp_path / "toy", "toy", {}) as draft:
        np.save(draft.path / "x.npy", np.zeros(shape))
    assert open_artifact(tmp_path / "toy", "toy").array("x").shape == shape


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with building(tmp_path / "toy", "toy", IDENTITY) as draft:
            np.save(draft.path / "first.npy", np.zeros(3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_another_writer_between_looking_and_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rename meets what another process has just done: removed the old folder, or put its own there."""
    folder = tmp_path / "toy"
    build(folder)
    other = tmp_path / "other"
    build(other)
    (folder / "first.npy").write_bytes(b"damaged")
    rename, steps = os.rename, iter(["try", "removed by another", "made by another"])

    def meddled(source: Any, target: Any) -> None:
        step = next(steps, "try")
        if step == "removed by another":
            shutil.rmtree(folder)
        if step == "made by another":
            rename(other, folder)
        rename(source, target)

    monkeypatch.setattr(os, "rename", meddled)
    build(folder)
    open_artifact(folder, "toy", IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_another_writer_removes_the_old_folder_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "toy"
    build(folder)
    (folder / "first.npy").write_bytes(b"damaged")
    look = artifacts.check_file

    def meddled(path: Path, entry: dict[str, Any], of: Path) -> None:
        monkeypatch.undo()
        shutil.rmtree(folder)
        look(path, entry, of)

    monkeypatch.setattr(artifacts, "check_file", meddled)
    build(folder)
    open_artifact(folder, "toy", IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_an_outdated_folder_is_replaced(folder: Path) -> None:
    build(folder, IDENTITY | {"numbers": [3]})
    assert open_artifact(folder, "toy").identity["numbers"] == [3]
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_what_is_outdated_is_deleted_when_its_replacement_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = []
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: there.append((folder / "manifest.json").exists()))
    build(folder, IDENTITY | {"numbers": [3]})
    assert there == [True, True], "of the old one, and of the place where the new one was made"


@pytest.mark.parametrize("what", ["empty folder", "folder of rubbish", "file"])
def test_what_stands_in_the_way_is_replaced(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    if what == "file":
        folder.write_text("rubbish")
    else:
        folder.mkdir()
    if what == "folder of rubbish":
        (folder / "rubbish").write_text("rubbish")
    build(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["first.npy", MANIFEST, "second.npy"]


def test_a_failing_rename_is_no_endless_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(MachineError, match="No space left"):
        build(tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []


def test_another_identity_is_named_field_by_field(folder: Path) -> None:
    wanted = {"made": "by a test", "numbers": [1, 3], "extra": None, "more": {"deep": 1}}
    with refused("numbers: found [1, 2], wanted [1, 3]", "more: found None, wanted {'deep': 1}", str(folder)):
        open_artifact(folder, "toy", wanted)


def test_differences_name_nested_fields() -> None:
    found = {"a": {"b": 1, "c": [1]}, "same": 1.0}
    assert list(differences(found, {"a": {"b": 2, "c": [1]}, "same": 1.0})) == ["a.b: found 1, wanted 2"]


def test_a_long_value_that_differs_is_shortened() -> None:
    (line,) = differences({"embeddings": None}, {"embeddings": {str(number): "x" * 20 for number in range(100)}})
    assert line.startswith("embeddings: found None, wanted {'0': 'xxx")
    assert len(line) < 200


def test_another_kind(folder: Path) -> None:
    with refused("holds toy, not dataset"):
        open_artifact(folder, "dataset", IDENTITY)


def test_a_missing_artefact(tmp_path: Path) -> None:
    with refused("no toy at", MANIFEST):
        open_artifact(tmp_path / "absent", "toy")


@pytest.mark.parametrize("name", ["first.npy", "second.npy"])
def test_a_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with refused(str(folder / name), "missing", "to regenerate it"):
        open_artifact(folder, "toy", IDENTITY)


def test_a_file_that_is_not_listed(folder: Path) -> None:
    with refused("lists no file 'third.npy'"):
        open_artifact(folder, "toy").array("third")


@pytest.mark.parametrize("name", ["first.npy", "second.npy"])
def test_every_flipped_byte_of_an_array_is_found(name: str, folder: Path) -> None:
    path, draw = folder / name, random.Random(0)
    whole = path.read_bytes()
    for _ in range(150):
        place = draw.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= draw.randint(1, 255)
        path.write_bytes(damaged)
        with refused(str(path), "damaged"):
            open_artifact(folder, "toy", IDENTITY)
    path.write_bytes(whole)
    open_artifact(folder, "toy", IDENTITY)


def test_every_flipped_byte_of_a_manifest_is_found(folder: Path) -> None:
    path, draw = folder / MANIFEST, random.Random(0)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= draw.randint(1, 255)
        path.write_bytes(damaged)
        with refused(str(path)):
            open_artifact(folder, "toy", IDENTITY)


def test_every_truncation_is_found(folder: Path) -> None:
    draw = random.Random(0)
    for path in (folder / "first.npy", folder / "second.npy", folder / MANIFEST):
        whole = path.read_bytes()
        lengths = {0, 1, len(whole) - 2, *(draw.randrange(len(whole) - 1) for _ in range(30))}
        for length in lengths:
            path.write_bytes(whole[:length])
            with refused(str(path)):
                open_artifact(folder, "toy", IDENTITY)
        path.write_bytes(whole)
    with open(folder / "first.npy", "ab") as stream:
        stream.write(b"\0")
    with refused("first.npy", "damaged"):
        open_artifact(folder, "toy", IDENTITY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"format": 1, "rows": NaN}',
        '{"format": 1, "rows": 1e999}',
        '{"format": 1, "rows": ' + "9" * 9000 + "}",
        "[" * 100_000,
        '{"format": 2}',
    ],
)
def test_a_manifest_that_is_none(text: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(text)
    with refused(str(folder / MANIFEST)):
        open_artifact(folder, "toy")


def test_a_manifest_that_was_edited(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["facts"]["rows"] = 65
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with refused("checksum"):
        open_artifact(folder, "toy")


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    for mask, file_mode, folder_mode in ((0o022, 0o644, 0o755), (0o007, 0o660, 0o770)):
        before = os.umask(mask)
        try:
            build(tmp_path / str(mask))
            write_json(tmp_path / f"{mask}.json", {})
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / str(mask)).iterdir()}
        assert modes == dict.fromkeys(["first.npy", "second.npy", MANIFEST], file_mode)
        assert stat.S_IMODE((tmp_path / str(mask)).stat().st_mode) == folder_mode
        assert stat.S_IMODE((tmp_path / f"{mask}.json").stat().st_mode) == file_mode


def test_a_failing_writer_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    for data in (float("nan"), {"a": float("inf")}, object()):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, data)

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_a_json_file_that_is_missing(tmp_path: Path) -> None:
    with refused("absent.json does not exist"):
        read_json(tmp_path / "absent.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.text(), child, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(identity=st.dictionaries(st.text(), JSON, max_size=4))
def test_a_fingerprint_survives_json_and_the_order_of_keys(identity: dict[str, Any]) -> None:
    reread = json.loads(json.dumps(identity))
    reordered = dict(reversed(reread.items()))
    assert digest(reordered) == digest(identity)
    assert list(differences(reordered, identity)) == []
